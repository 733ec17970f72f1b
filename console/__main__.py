"""The `referrals` command. A mistake ends as plain lines on standard error: exit code 1, of usage 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from console import again, connections, standing, trial, trial_file
from console import begin as beginning
from console import export as exporting
from console import past as past_windows
from console import preview as previewing
from console import publish as publishing
from console import uncertain as held_back
from console import verify as verifying
from console import windows as file_windows
from console.show import count, note, say, table
from consumer import log, service
from consumer.service import Stop
from consumer.topics import DEFAULT_PARTITIONS

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Referral delivery. Settings come from REFERRALS_… variables in the environment.",
)
of_connections = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Advertisers' connections.")
app.add_typer(of_connections, name="connections")

Folder = Annotated[str | None, typer.Argument(metavar="DIR", help="Default: REFERRALS_CONNECTIONS.")]
Other = Annotated[str | None, typer.Argument(metavar="DIR", help="Default: the set in force.")]
Sample = Annotated[
    str | None, typer.Option(metavar="FILE", help="An event as `publish` takes it; default: an invented one.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The connection.")]
Window = Annotated[str, typer.Argument(metavar="WINDOW", help="As files and `windows --past` name it.")]
Wait = Annotated[
    float | None, typer.Option(min=0, max=86_400, metavar="SECONDS", help="Wait so long for its end.")
]


@app.command()
def init(
    start: Annotated[
        str, typer.Option("--from", metavar="earliest|latest|TIME", help="Where reading begins.")
    ],
    partitions: Annotated[
        int, typer.Option(min=1, max=10_000, help="Of topics that have to be made.")
    ] = DEFAULT_PARTITIONS,
    replication: Annotated[int, typer.Option(min=1, max=10, help="Copies of each partition.")] = 1,
) -> None:
    """Make topics and state, once.

    Run again, it says that all stands already.
    """
    begun = beginning.begin(service.settings(), start, partitions, replication)
    for topic in begun.made:
        say(f"made topic {topic}")
    where = f"{begun.topic}, {count(begun.partitions, 'partition')}"
    if begun.layout is None:
        say(f"{where}: initialised before, nothing to do")
        return
    starts = ", ".join(str(offset) for offset in begun.layout.starts)
    say(f"initialised {where}; reading begins at {starts}")


@of_connections.command()
def check(folder: Folder = None) -> None:
    """Check the files; needs no server.

    Shows every error of every file, or what each account gets.
    """
    found = connections.read(service.settings(), folder)
    rows = connections.rows(found)
    table(connections.COLUMNS, rows)
    note(f"{_size(len(found.accounts), len(rows))}: no errors")


@of_connections.command()
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


@of_connections.command("list")
def show() -> None:
    """Show those in force, what waits for each, and which are paused."""
    found = standing.read(service.settings())
    table(standing.COLUMNS, standing.rows(found))
    accounts, number = len(found.stored.set.accounts), len(found.stored.set.by_name())
    note(f"version {found.stored.version}: {_size(accounts, number)}, {len(found.paused)} paused")


@of_connections.command()
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


@of_connections.command("test")
def try_out(name: Name, referral: Sample = None, folder: Other = None) -> None:
    """Send one referral flagged as a test, and show what it comes to.

    It changes nothing here, and works while the connection is paused. Of a file, everything but delivering it
    is done: a server gets one that is removed at once, a mail goes as far as the relay's word that it takes
    it. Exit code 0: it was accepted.
    """
    settings = service.settings()
    tried_file = trial_file.trial(settings, name, referral, folder)
    if tried_file is not None:
        for line in tried_file.done:
            say(line)
        if tried_file.trouble is not None:
            raise Stop(tried_file.trouble)
        return
    tried = trial.trial(settings, name, referral, folder)
    say(f"{tried.request}\n\n{tried.answer or '(no answer)'}\n\n{tried.verdict}\n{tried.follows}")
    for line in (*tried.notes, trial.tell(settings, tried.receipt)):
        note(line)
    if not tried.accepted:
        raise typer.Exit(1)


@of_connections.command()
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


@of_connections.command()
def pause(
    name: Name, reason: Annotated[str, typer.Option(help="Shown in the list.")] = "by an operator"
) -> None:
    """Pause one.

    Nothing more of it is sent; what comes in waits.
    """
    new = connections.pause(service.settings(), name, reason)
    say(f"{name} is paused" if new else f"{name} was paused already; the reason is noted")


@of_connections.command()
def resume(name: Name) -> None:
    """Go on with a paused one."""
    was = connections.resume(service.settings(), name)
    say(f"{name} goes on" if was else f"{name} was not paused")


@app.command()
def publish(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="One event a line; - is standard input.")],
) -> None:
    """Check and publish referral events.

    Nothing is published unless every line is right.
    """
    done = publishing.publish(service.settings(), file)
    say(f"published {count(done.count, 'referral event')} to {done.topic}")
    table(("partition", "events"), [(str(p), f"{n:,}") for p, n in sorted(done.partitions.items())])
    note("published again within an hour, the same file is dropped as duplicates")


@app.command()
def export(
    account: Annotated[str, typer.Option(help="Whose referrals.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Published at or after, as ISO 8601.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Published before.")],
    connection: Annotated[str | None, typer.Option(help="Whose fields and format.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Default: standard output.")] = None,
    formula_guard: Annotated[
        bool | None,
        typer.Option("--formula-guard/--no-formula-guard", help="Default: as the connection says."),
    ] = None,
) -> None:
    """Write referrals of a time range as the connection's file.

    Moves no position and sends nothing. Times carry an offset, or are in a file connection's own zone.
    """
    done = exporting.export(service.settings(), account, connection, (start, end), out, guard=formula_guard)
    note(f"exported {count(done.rows, 'referral')} of {account} as for {done.wanted.connection}, {done.span}")
    for line in done.remarks():
        note(line)


@app.command()
def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A delivered file, as it arrived.")],
    sidecar: Annotated[
        str | None, typer.Option(metavar="FILE", help="Default: the document beside it that lists it.")
    ] = None,
) -> None:
    """Compare a delivered file with the document beside it; needs no server."""
    done = verifying.verify(file, sidecar)
    entry = done.entry
    say(f"{entry.name}: whole and unchanged, {count(entry.rows, 'row')}, {count(entry.bytes, 'byte')}")
    for name in done.missing:
        note(f"{name} of the same window is not here")


@app.command()
def windows(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One connection; default: all.")] = None,
    *,
    past: Annotated[
        int | None, typer.Option(min=1, max=10_000, metavar="COUNT", help="Its last windows and their files.")
    ] = None,
) -> None:
    """Show where windows stand."""
    if past is None:
        table(file_windows.COLUMNS, file_windows.states(service.settings(), name))
    elif name is None:
        raise Stop("--past is of one connection: name it")
    else:
        table(past_windows.COLUMNS, past_windows.windows(service.settings(), name, past))


@app.command()
def flush(
    name: Name,
    wait: Wait = None,
) -> None:
    """Flush a file connection now."""
    say(file_windows.flush(service.settings(), name, wait))


@app.command("give-up")
def give_up(
    window: Window,
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="For its receipt; name nobody.")],
) -> None:
    """End a held window undelivered, so that the connection's next ones may leave."""
    say(file_windows.give_up(service.settings(), window, why))


@app.command()
def resend(
    window: Window,
    *,
    same_name: Annotated[
        bool, typer.Option("--same-name", help="Its files get the names they had, not -resend ones.")
    ] = False,
    wait: Wait = None,
) -> None:
    """Send a closed window's files once more: the same rows, from Kafka, or nothing."""
    say(again.resend(service.settings(), window, wait, same_name=same_name))


def _size(accounts: int, number: int) -> str:
    return f"{count(accounts, 'account')}, {count(number, 'connection')}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line given, or this process's own; exits."""
    # What a library of ours logs is not a result.
    log.configure("referrals", "WARNING")
    sys.exit(service.run(lambda: app(arguments, prog_name="referrals")))


if __name__ == "__main__":
    main()
