"""One connection's windows over two partitions: seal everywhere, write the manifest, send, end, and the next window.

Intake goes on meanwhile; two flush workers work on the same window, die, or come late; Redis falls back to its last
snapshot. Law: every row is in one window or still open, and what was sent is what the manifest says, for ever.
"""

from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import NamedTuple, TypeVar

from tests.invariants.explore import Label, Model

ROWS = (2, 1)  # in the log of each partition; a row is its offset
PARTITIONS = len(ROWS)
WINDOWS = 2
CRASHES = 1  # of Redis
WORKERS = 2

Rows = tuple[int, ...]
Item = TypeVar("Item")


class Bug(Enum):
    NO_MARK_WHEN_EMPTY = "sealing an empty partition leaves no mark"
    LATE_SEAL_MOVES = "a late seal moves rows"
    SENT_BEFORE_BARRIER = "sent before the manifest is durable"
    MANIFEST_TOO_SOON = "the manifest does not wait for every mark"
    MARKS_OUTLIVE_CRASH = "a worker goes on with the marks it was given before Redis crashed"


class Mark(NamedTuple):
    start: int
    to: int


class Partition(NamedTuple):
    """`marks` and `sealed` by window number, from 1; a window that has ended keeps neither."""

    next: int = 0
    open: Rows = ()
    last: int = 0
    to: int = 0
    marks: tuple[Mark | None, ...] = (None,) * WINDOWS
    sealed: tuple[Rows, ...] = ((),) * WINDOWS


Manifest = tuple[Mark, ...]


class Redis(NamedTuple):
    """`claimed`: the current window; `ended`: the last one that is over."""

    partitions: tuple[Partition, ...] = (Partition(),) * PARTITIONS
    claimed: int = 0
    ended: int = 0
    manifests: tuple[Manifest | None, ...] = (None,) * WINDOWS


class Worker(NamedTuple):
    """`window` 0: nothing to do. `stage`: sealing, written, durable, sent."""

    window: int = 0
    marks: tuple[Mark | None, ...] = (None,) * PARTITIONS
    stage: str = "sealing"


class State(NamedTuple):
    """`durable`: the last snapshot, while a crash is still to come. `told`: manifests Kafka has acknowledged.
    `sent`: what receivers got, per window and partition. `breach`: what no later step can undo.
    """

    redis: Redis = Redis()
    durable: Redis | None = Redis()
    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    told: tuple[Manifest | None, ...] = (None,) * WINDOWS
    sent: tuple[tuple[Rows, ...] | None, ...] = (None,) * WINDOWS
    crashes: int = CRASHES
    breach: str | None = None


def seal(bug: Bug | None = None) -> Model[State]:
    return Model(
        initial=State(),
        steps=lambda state: _steps(state, bug),
        broken=_broken,
        goal=lambda state: state.redis.ended == WINDOWS,
        same=lambda state: state._replace(workers=tuple(sorted(state.workers, key=hash))),
    )


def _broken(state: State) -> str | None:
    redis = state.redis
    for p, partition in enumerate(redis.partitions):
        over = [row for manifest in redis.manifests[: redis.ended] if manifest for row in _range(manifest[p])]
        rows = [*over, *(row for rows in partition.sealed for row in rows), *partition.open]
        if sorted(rows) != list(range(partition.next)):
            return "a row is in no window, or in two"
    told = [manifest for manifest in state.told if manifest is not None]
    if any(a.to != b.start for one, two in pairwise(told) for a, b in zip(one, two, strict=True)):
        return "windows overlap or leave a gap"
    for n, manifest in enumerate(state.told):
        if manifest is None:
            continue
        content = tuple(_range(mark) for mark in manifest)
        if n >= redis.ended and content != tuple(partition.sealed[n] for partition in redis.partitions):
            return "a window changed after its manifest"
        if state.sent[n] not in {None, content}:
            return "what was sent is not what the manifest says"
    return state.breach


def _range(mark: Mark) -> Rows:
    return tuple(range(mark.start, mark.to))


def _steps(state: State, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    redis = state.redis
    if state.durable is not None and state.durable != redis:
        yield ("fsync",), state._replace(durable=redis)
        yield ("crash",), _crashed(state, state.durable, bug)
    for p, partition in enumerate(redis.partitions):
        if partition.next < ROWS[p]:
            more = partition._replace(next=partition.next + 1, open=(*partition.open, partition.next))
            yield ("intake", p), state._replace(redis=_part(redis, p, more))
    for i, worker in enumerate(state.workers):
        if worker.window:
            yield ("die", i), _with(state, i, Worker())
            yield from _flush(state, i, worker, bug)
        elif redis.claimed > redis.ended:
            yield ("join", i), _with(state, i, Worker(redis.claimed))
        elif redis.claimed < WINDOWS:
            claimed = redis._replace(claimed=redis.claimed + 1)
            yield ("claim", i), _with(_barrier(state._replace(redis=claimed)), i, Worker(claimed.claimed))


def _flush(state: State, i: int, worker: Worker, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    redis, n = state.redis, worker.window - 1
    if worker.stage == "sealing":
        p = worker.marks.index(None) if None in worker.marks else PARTITIONS
        if p < PARTITIONS:
            partition, mark = sealed(redis.partitions[p], worker.window, bug)
            after = Worker() if mark is None else worker._replace(marks=_put(worker.marks, p, mark))
            yield ("seal", i, p), _with(state._replace(redis=_part(redis, p, partition)), i, after)
    if redis.ended >= worker.window:
        yield ("too late", i), _with(state, i, Worker())
        return
    if worker.stage == "sealing" and (
        None not in worker.marks or (bug is Bug.MANIFEST_TOO_SOON and any(worker.marks))
    ):
        manifest = redis.manifests[n] or tuple(
            mark or Mark(redis.partitions[p].to, redis.partitions[p].to)
            for p, mark in enumerate(worker.marks)
        )
        written = redis._replace(manifests=_put(redis.manifests, n, manifest))
        yield ("manifest", i), _with(state._replace(redis=written), i, worker._replace(stage="written"))
    if worker.stage == "written":
        known_to_kafka = _barrier(state)._replace(told=_put(state.told, n, redis.manifests[n]))
        yield ("barrier", i), _with(known_to_kafka, i, worker._replace(stage="durable"))
    if worker.stage == "durable" or (worker.stage == "written" and bug is Bug.SENT_BEFORE_BARRIER):
        yield ("send", i), _with(_sent(state, n), i, worker._replace(stage="sent"))
    if worker.stage == "sent":
        parts = tuple(_dropped(partition, n) for partition in redis.partitions)
        yield (
            ("end", i),
            _with(state._replace(redis=redis._replace(partitions=parts, ended=n + 1)), i, Worker()),
        )


def sealed(partition: Partition, window: int, bug: Bug | None = None) -> tuple[Partition, Mark | None]:
    """The script: the partition after it and its mark, or None when that window is over."""
    n = window - 1
    if window <= partition.last and bug is not Bug.LATE_SEAL_MOVES:
        return partition, partition.marks[n]
    mark = Mark(partition.to, partition.next)
    if bug is Bug.NO_MARK_WHEN_EMPTY and not partition.open:
        return partition, mark
    marks = _put(partition.marks, n, mark)
    rows = _put(partition.sealed, n, partition.open)
    return Partition(partition.next, (), max(window, partition.last), partition.next, marks, rows), mark


def _sent(state: State, n: int) -> State:
    content = tuple(partition.sealed[n] for partition in state.redis.partitions)
    breach = state.breach
    if state.durable is not None and state.durable.manifests[n] is None:
        breach = "sent before the manifest was durable"
    if state.sent[n] not in {None, content}:
        breach = "a window was sent twice, and differently"
    return state._replace(sent=_put(state.sent, n, content), breach=breach)


def _dropped(partition: Partition, n: int) -> Partition:
    return partition._replace(marks=_put(partition.marks, n, None), sealed=_put(partition.sealed, n, ()))


def _barrier(state: State) -> State:
    return state if state.durable is None else state._replace(durable=state.redis)


def _crashed(state: State, durable: Redis, bug: Bug | None) -> State:
    """Redis restarts from its snapshot; a worker notices, and starts its window over."""
    workers = state.workers if bug is Bug.MARKS_OUTLIVE_CRASH else (Worker(),) * WORKERS
    crashes = state.crashes - 1
    return state._replace(
        redis=durable, durable=durable if crashes else None, workers=workers, crashes=crashes
    )


def _part(redis: Redis, p: int, partition: Partition) -> Redis:
    return redis._replace(partitions=_put(redis.partitions, p, partition))


def _put(items: tuple[Item, ...], n: int, item: Item) -> tuple[Item, ...]:
    return (*items[:n], item, *items[n + 1 :])


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=_put(state.workers, i, worker))
