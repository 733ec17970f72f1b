"""What there is in the mail model: the mails, what Redis has of them and of their files, and the workers."""

from typing import NamedTuple, TypeVar

RECIPIENTS = 2
FILES = 2
MAILS = RECIPIENTS * FILES  # file by file
TROUBLES = (
    2  # deaths, take-overs, crashes of Redis, refusals, and answers that are busy or never come: each is one
)

Item = TypeVar("Item")


class Kept(NamedTuple):
    """A making under its key; until it is `told` it goes by itself."""

    key: int
    making: int
    told: bool = False


class Window(NamedTuple):
    """`mails`: "" open, S sending, D delivered, U uncertain, R refused. `made`: the making told of, 0 for none."""

    state: str = "SEALED"
    mails: tuple[str, ...] = ("",) * MAILS
    uncertain: bool = False
    made: int = 0
    token: int = 0


class Redis(NamedTuple):
    window: Window = Window()
    kept: frozenset[Kept] = frozenset()


class Worker(NamedTuple):
    """`view`: the window as it knows it, None for no turn. `stage`: make, tell, next, data, note, end, close.
    `at`: the mail it is at. `trouble`: why this try will not end the window.
    """

    view: Window | None = None
    stage: str = "make"
    at: int = 0
    trouble: bool = False


class State(NamedTuple):
    """`got`: per mail, how many copies left us (2: two or more), and of which makings. `claims`: how often the
    window may be claimed. `gone`: the recipient who is refused from now on.
    """

    redis: Redis = Redis()
    durable: Redis = Redis()
    workers: tuple[Worker, ...] = (Worker(), Worker())
    got: tuple[tuple[int, frozenset[int]], ...] = ((0, frozenset()),) * MAILS
    tokens: int = 0
    claims: int = 0
    troubles: int = TROUBLES
    leaving: bool = False
    gone: int | None = None


def is_refused(window: Window, recipient: int) -> bool:
    return "R" in window.mails[recipient::RECIPIENTS]


def first_byte_left(window: Window) -> bool:
    return window.uncertain or any(told not in {"", "R"} for told in window.mails)


def put(items: tuple[Item, ...], n: int, item: Item) -> tuple[Item, ...]:
    return (*items[:n], item, *items[n + 1 :])
