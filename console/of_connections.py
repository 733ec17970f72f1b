"""The commands of `referrals connections`."""

from __future__ import annotations

from typing import Annotated

import typer

from console import connections, standing, trial, trial_file
from console import preview as previewing
from console import uncertain as held_back
from console.show import count, note, say, table
from consumer import service
from consumer.service import Stop
from schemas.push import PushBase

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Advertisers' connections.")

Folder = Annotated[str | None, typer.Argument(metavar="DIR", help="Default: REFERRALS_CONNECTIONS.")]
Other = Annotated[str | None, typer.Argument(metavar="DIR", help="Default: the set in force.")]
Sample = Annotated[
    str | None, typer.Option(metavar="FILE", help="An event as `publish` takes it; default: an invented one.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The connection.")]


@app.command()
def check(folder: Folder = None) -> None:
    """Check the files; needs no server.

    Shows every error of every file, or what each account gets.
    """
    found = connections.read(service.settings(), folder)
    rows = connections.rows(found)
    table(connections.COLUMNS, rows)
    note(f"{_size(len(found.accounts), len(rows))}: no errors")


@app.command()
def apply(folder: Folder = None) -> None:
    """Put the files in force."""
    settings = service.settings()
    applied = connections.apply(settings, connections.read(settings, folder))
    size = _size(applied.accounts, applied.connections)
    if applied.version == applied.before:
        say(f"{size}: in force already as version {applied.version}, nothing to do")
        return
    changes = applied.difference
    for name in changes.added:
        say(f"+ {name}")
    for name, members in changes.changed.items():
        say(f"~ {name}: {', '.join(members)}")
    for name in changes.removed:
        left = applied.stranded[name]
        say(f"- {name}" + (f": {left} referrals wait until a connection has that name again" if left else ""))
    told = f"{len(changes.added)} added, {len(changes.changed)} changed, {len(changes.removed)} removed"
    say(f"{size}: in force as version {applied.version}; {told}")


@app.command("list")
def show() -> None:
    """Show those in force, what waits for each, and which are paused."""
    found = standing.read(service.settings())
    table(standing.COLUMNS, standing.rows(found))
    accounts, number = len(found.stored.set.accounts), len(found.stored.set.by_name())
    note(f"version {found.stored.version}: {_size(accounts, number)}, {len(found.paused)} paused")


@app.command()
def preview(name: Name, referral: Sample = None, folder: Other = None) -> None:
    """Show the request, or the row, that a referral would become.

    Secrets stand as their references. With DIR it needs no server.
    """
    found = previewing.preview(service.settings(), name, referral, folder)
    for line in found.notes:
        note(line)
    if found.text is None:
        raise service.Stop(f"nothing would be sent: {found.refused}")
    say(found.text)


@app.command("test")
def try_out(name: Name, referral: Sample = None, folder: Other = None) -> None:
    """Send one referral flagged as a test, and show what it comes to.

    It changes nothing here, and works while the connection is paused. Of a file, everything but delivering it
    is done: a server gets one that is removed at once, a mail goes as far as the relay's word that it takes
    it. Exit code 0: it was accepted.
    """
    settings = service.settings()
    chosen = previewing.choose(settings, name, referral, folder, test=True)
    if not isinstance(chosen.connection, PushBase):
        tried_file = trial_file.trial(settings, chosen.connection, chosen.referral)
        for line in tried_file.done:
            say(line)
        if tried_file.trouble is not None:
            raise Stop(tried_file.trouble)
        return
    tried = trial.trial(settings, chosen, chosen.connection)
    say(f"{tried.request}\n\n{tried.answer or '(no answer)'}\n\n{tried.verdict}\n{tried.follows}")
    for line in (*tried.notes, trial.tell(settings, tried.receipt)):
        note(line)
    if not tried.accepted:
        raise typer.Exit(1)


@app.command()
def uncertain(
    name: Name,
    send: Annotated[
        str | None, typer.Option(metavar="DELIVERY", help="It is not there: try it again.")
    ] = None,
    send_all: Annotated[bool, typer.Option("--send-all", help="None is there: try all again.")] = False,
    drop: Annotated[
        str | None, typer.Option(metavar="DELIVERY", help="It is there, or must not be sent: give it up.")
    ] = None,
    drop_all: Annotated[bool, typer.Option("--drop-all", help="Give all up.")] = False,
) -> None:
    """Show deliveries that may have arrived, or decide.

    They wait for a person, because the receiver may have forgotten their keys: look there first.
    """
    settings = service.settings()
    told = held_back.decide(settings, name, send=(send, send_all), drop=(drop, drop_all))
    if told is not None:
        say(told)
        return
    found = held_back.show(settings, name)
    table(held_back.COLUMNS, found.rows)
    more = f", {found.count - len(found.rows):,} not shown" if found.count > len(found.rows) else ""
    note(f"{count(found.count, 'delivery', 'deliveries')} of {name} wait for a person{more}")


@app.command()
def pause(
    name: Name, reason: Annotated[str, typer.Option(help="Shown in the list.")] = "by an operator"
) -> None:
    """Pause one.

    Nothing more of it is sent; what comes in waits.
    """
    new = connections.pause(service.settings(), name, reason)
    say(f"{name} is paused" if new else f"{name} was paused already; the reason is noted")


@app.command()
def resume(name: Name) -> None:
    """Go on with a paused one."""
    was = connections.resume(service.settings(), name)
    say(f"{name} goes on" if was else f"{name} was not paused")


def _size(accounts: int, number: int) -> str:
    return f"{count(accounts, 'account')}, {count(number, 'connection')}"
