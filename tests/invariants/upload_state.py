"""What there is in the upload model: the window, the workers, and the server."""

from typing import NamedTuple

FILES = 3  # the last is the document that lists the others
TROUBLES = 2  # deaths, cuts, take-overs, crashes of Redis, lost replies: each is one
FOREIGN = 0  # the file whose name a stranger's has


class Part(NamedTuple):
    """A file on the server under a name nobody looks at. `made`: which definition it was made with."""

    token: int
    file: int
    made: int


class Window(NamedTuple):
    """As Redis has it. `state`: SEALED, UPLOADED, ENDED, CLOSED; `number` 2: the next one is open."""

    number: int = 1
    state: str = "SEALED"
    pinned: tuple[Part, ...] = ()
    delivered: tuple[bool, ...] = (False,) * FILES
    token: int = 0


class Worker(NamedTuple):
    """`view`: the window as it knows it, None for no turn. `made`: the definition in force when its try began.
    `stage`: upload, pin (`holds` is on the server), name, note (it has its name), ended.
    """

    view: Window | None = None
    made: int = 0
    stage: str = "upload"
    holds: Part | None = None


class State(NamedTuple):
    """`parts`, `final` and `got` are the server's: temporary files, what has each final name now (-1: a stranger's
    file), and the makings each name ever got. `tokens`: the last one given. `edit`: the definition in force.
    """

    redis: Window = Window()
    durable: Window = Window()
    workers: tuple[Worker, ...] = (Worker(), Worker())
    parts: frozenset[Part] = frozenset()
    final: tuple[int | None, ...] = (None,) * FILES
    got: tuple[tuple[int, ...], ...] = ((),) * FILES
    tokens: int = 0
    edit: int = 0
    foreign: bool = True
    troubles: int = TROUBLES
    breach: str | None = None
