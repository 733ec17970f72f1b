"""The commands about windows: where they stand, one now, one once more, one given up."""

from __future__ import annotations

from typing import Annotated

import typer

from console import again
from console import past as past_windows
from console import windows as file_windows
from console.show import say, table
from consumer import service
from consumer.service import Stop

Name = Annotated[str, typer.Argument(metavar="NAME", help="The connection.")]
Window = Annotated[str, typer.Argument(metavar="WINDOW", help="As files and `windows --past` name it.")]
Wait = Annotated[
    float | None, typer.Option(min=0, max=86_400, metavar="SECONDS", help="Wait so long for its end.")
]


def add(app: typer.Typer) -> None:
    """Give the command these."""
    for command in (windows, flush, give_up, release, resend):
        app.command()(command)


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


def flush(
    name: Name,
    wait: Wait = None,
) -> None:
    """Flush a file connection now."""
    say(file_windows.flush(service.settings(), name, wait))


def give_up(
    window: Window,
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="For its receipt; name nobody.")],
) -> None:
    """End a held window undelivered, so that the connection's next ones may leave."""
    say(file_windows.give_up(service.settings(), window, why))


def release(window: Window) -> None:
    """Send a held window that may have left before Redis was lost."""
    say(file_windows.release(service.settings(), window))


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
