"""The `referrals` command. A mistake ends as plain lines on standard error: exit code 1, of usage 2."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from console import begin as beginning
from console import export as exporting
from console import of_connections, of_windows
from console import publish as publishing
from console import verify as verifying
from console.rebuild import run as rebuilding
from console.reconcile import run as reconciling
from console.reconcile import shown as telling
from console.reconcile.books import Trouble
from console.show import count, note, say, table
from consumer import log, service
from consumer.topics import DEFAULT_PARTITIONS

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Referral delivery. Settings come from REFERRALS_… variables in the environment.",
)
app.add_typer(of_connections.app, name="connections")


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


@app.command()
def rebuild(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Really.")] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Remove what Redis holds: it went back, and the services say so."),
    ] = False,
    assume: Annotated[
        bool, typer.Option("--assume", help="Where older sets of connections are not known: take the oldest.")
    ] = False,
) -> None:
    """Make the state of a lost Redis anew, from Kafka.

    With all services stopped. Restoring Redis's newest append-only file is better, where there is one.
    """
    done = rebuilding.rebuild(service.settings(), yes=yes, replace_state=replace, assume=assume)
    size = (
        f"{count(done.pending, 'delivery', 'deliveries')} pending, {count(done.rows, 'row')} in open windows"
    )
    say(f"rebuilt from {count(done.records, 'record')}: {size}")
    for window in done.held:
        say(f"{window} is held: nobody knows whether it left; see `referrals windows`")
    for line in done.remarks:
        note(line)


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
def reconcile(
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Published at or after, as ISO 8601.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Published before.")],
    *,
    account: Annotated[str | None, typer.Option(help="One advertiser; default: all.")] = None,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write all of it there.")] = None,
    textfile: Annotated[
        str | None, typer.Option(metavar="FILE", help="Figures for node_exporter's textfile collector.")
    ] = None,
) -> None:
    """Account for every referral of a time range.

    Each in one class or state; what is missing, doubled or conflicting is listed, with exit code 1.
    """
    done = reconciling.reconcile(service.settings(), (start, end), account)
    if json is not None:
        telling.write(json, telling.as_json(done))
    if textfile is not None:
        telling.write(textfile, telling.textfile(done, time.time()))
    table(telling.COLUMNS, telling.table(done))
    for line in telling.lines(done):
        say(line)
    for line in done.remarks():
        note(line)
    found = done.books.troubles
    note(", ".join(f"{found[trouble]:,} {trouble}" for trouble in Trouble))
    if not done.books.balanced:
        raise typer.Exit(1)


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


of_windows.add(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line given, or this process's own; exits."""
    # What a library of ours logs is not a result.
    log.configure("referrals", "WARNING")
    sys.exit(service.run(lambda: app(arguments, prog_name="referrals")))


if __name__ == "__main__":
    main()
