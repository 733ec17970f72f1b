"""Redis lost or gone back, and made anew: one partition read by push and by collect, one lane, one connection's windows.

Kafka keeps commits, receipts and manifests; Redis may be emptied, lose its last second or be an older copy while
services run, while they stand and while it is rebuilt. Law: no row is in two files and none is skipped, what a
receipt tells of is not pushed again, what was removed is not pushed, and a person decides where nobody can know.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.invariants.explore import Label, Model

ROWS = (0, 1)
REMOVAL = 2  # the record that withdraws row 0
LOG = 3
CAP = 1  # deliveries a lane holds; the rest is parked
WINDOWS = 3
STAGES = ("survey", "floors", "push", "batch", "windows", "complete")  # of a rebuilding, after it began

Rows = tuple[int, ...]


class Bug(Enum):
    FORGETS_FLOORS = "a rebuilding forgets what manifests say was sealed"
    NO_REPLAY = "a rebuilding goes on where intake had come, and takes nothing in once more"
    COMMITS_ALONE = "a rebuilding forgets that receipts show what was taken"
    FORGETS_RECEIPTS = "a rebuilding forgets which deliveries have ended"
    FORGETS_REMOVALS = "a rebuilding forgets the removals"
    RELEASES = "a rebuilding lets a window go by itself whose end nobody knows"
    STARTS_INCOMPLETE = "services start on what a rebuilding left behind that died"
    NO_WITNESS = "services believe a Redis that stands behind what it confirmed"
    NO_WINDOW_WITNESS = "services believe a Redis that knows less of windows than Kafka"


class Trouble(Enum):
    EMPTIED = "Redis is emptied"
    OLDER = "Redis is an older copy"
    CRASHED = "Redis loses its last second, and is emptied later"


class Side(Enum):
    """Whose affairs happen: they share no key, so that both at once would only multiply the states."""

    PUSH = "push"
    BATCH = "batch"


class Redis(NamedTuple):
    """`push`, `batch`: next offsets. `building`: the next stage of a rebuilding, None where it is complete.

    `window`: the newest one's number, of offsets `start` to `to`; `sealed`: its rows; `stage`: closed, sealed or
    ended. `restored`: a rebuilding made it, so that nothing tells how far it came; `held`: it waits for a person.
    """

    push: int = 0
    batch: int = 0
    building: str | None = None
    pending: Rows = ()
    parked: Rows = ()
    outbox: Rows = ()
    removed: bool = False
    removed_batch: bool = False
    open: Rows = ()
    window: int = 0
    start: int = 0
    to: int = 0
    sealed: Rows = ()
    stage: str = "closed"
    restored: bool = False
    held: bool = False


class Told(NamedTuple):
    """A manifest: what was sealed, and whether it has ended."""

    start: int
    to: int
    ended: bool = False


class Kafka(NamedTuple):
    """`push`, `batch`: committed and durable then."""

    push: tuple[int, int] = (0, 0)
    batch: tuple[int, int] = (0, 0)
    receipts: Rows = ()
    manifests: tuple[Told, ...] = ()


class State(NamedTuple):
    """`disk`: Redis as its disk has it, where that may differ; `copy`: an older one. `looked`: services know where
    Redis stands. `gone`: push has obeyed the removal. `excused`: pushes that the last second explains.
    """

    redis: Redis | None = Redis()
    disk: Redis | None = None
    copy: Redis | None = None
    kafka: Kafka = Kafka()
    running: bool = True
    looked: bool = True
    flying: Rows = ()
    effects: Rows = (0,) * len(ROWS)
    files: tuple[Rows | None, ...] = (None,) * WINDOWS
    gone: bool = False
    excused: Rows = ()
    troubles: tuple[str, ...] = ()
    breach: str | None = None


#: How often each may happen.
TROUBLES = {
    Trouble.EMPTIED: ("emptied",),
    Trouble.OLDER: ("older",),
    Trouble.CRASHED: ("crashed", "emptied"),
}


def rebuild(trouble: Trouble, side: Side, bug: Bug | None = None) -> Model[State]:
    disk = Redis() if trouble is Trouble.CRASHED else None
    return Model(
        initial=State(disk=disk, troubles=TROUBLES[trouble]),
        steps=lambda state: _steps(state, side, bug),
        broken=_broken,
        goal=lambda state: _goal(state, side),
    )


def _broken(state: State) -> str | None:
    filed = [row for rows in state.files for row in rows or ()]
    return "a row is in two files" if len(filed) > len(set(filed)) else state.breach


def _goal(state: State, side: Side) -> bool:
    redis = state.redis
    if redis is None or redis.building or not state.running:
        return False
    if side is Side.PUSH:
        return (
            redis.push == LOG and not (redis.pending or redis.parked or redis.outbox) and state.effects[1] > 0
        )
    filed = {row for rows in state.files for row in rows or ()}
    return redis.batch == LOG and not redis.open and redis.stage == "closed" and 1 in filed


def _steps(state: State, side: Side, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    redis = state.redis
    yield from _troubles(state)
    if state.running:
        yield ("die",), state._replace(running=False, flying=())
        if state.flying:
            yield ("die, applied",), _applied(state, state.flying)._replace(running=False, flying=())
        for row in state.flying:
            yield ("delivered", row), _delivered(state, row)
    if redis is None:
        if not state.running:
            yield ("begin",), _begun(state)
    elif state.running and not state.looked:
        back = went_back(redis, state.kafka, bug)
        yield ("look",), state._replace(running=not back, looked=True, flying=() if back else state.flying)
    elif state.running:
        sides = {Side.PUSH: _pushing, Side.BATCH: _collecting}
        yield from sides[side](state, redis)
        yield from _commit(state, redis)
    elif redis.building:
        yield ("begin",), _begun(state)
        yield ("rebuild", redis.building), state._replace(redis=rebuilt(redis, state.kafka, bug))
        if bug is Bug.STARTS_INCOMPLETE:
            yield ("start",), state._replace(redis=redis._replace(building=None), running=True)
    elif went_back(redis, state.kafka, bug):
        yield ("begin",), _begun(state)
    else:
        yield ("start",), state._replace(running=True, looked=True)


def _troubles(state: State) -> Iterator[tuple[Label, State]]:
    redis, left = state.redis, state.troubles
    if "emptied" in left and redis is not None and left[0] == "emptied":
        yield ("emptied",), state._replace(redis=None, troubles=left[1:], copy=None, disk=None)
    if "older" in left and redis is not None and not redis.building:
        if state.copy is None:
            yield ("copy",), state._replace(copy=redis)
        elif state.copy != redis:
            yield ("older",), _fallen(state, state.copy)._replace(troubles=(), copy=None)
    if state.disk is not None and state.disk != redis:
        yield ("fsync",), state._replace(disk=redis)
        if left and left[0] == "crashed":
            yield ("crashed",), _fallen(state, state.disk)._replace(troubles=left[1:], disk=None)


def _fallen(state: State, then: Redis) -> State:
    """Redis starts with what it was; what it forgot may be pushed again, unless Kafka knows better."""
    forgot = tuple(row for row in ROWS if row >= then.push or row in (*then.pending, *then.parked))
    again = () if went_back(then, state.kafka) else forgot
    return state._replace(redis=then, looked=not state.running, gone=then.removed, excused=again)


def went_back(redis: Redis, kafka: Kafka, bug: Bug | None = None) -> bool:
    """Whether Kafka knows of more than the last second explains."""
    floor = max((told.to for told in kafka.manifests), default=0)
    if bug is not Bug.NO_WITNESS and (
        redis.push < kafka.push[1] or redis.batch < kafka.batch[1] or redis.batch < floor
    ):
        return True
    return bug not in {Bug.NO_WITNESS, Bug.NO_WINDOW_WITNESS} and forgets_windows(redis, kafka)


def forgets_windows(redis: Redis, kafka: Kafka) -> bool:
    number = len(kafka.manifests)
    ended = number > 0 and kafka.manifests[-1].ended
    return redis.window < number or (redis.window == number and ended and redis.stage == "sealed")


def _pushing(state: State, redis: Redis) -> Iterator[tuple[Label, State]]:
    if redis.push < LOG:
        after = taken(redis)
        yield ("push",), state._replace(redis=after, gone=state.gone or after.removed)
    if redis.parked and len(redis.pending) < CAP:
        refilled = redis._replace(pending=(*redis.pending, redis.parked[0]), parked=redis.parked[1:])
        yield ("refill",), state._replace(redis=refilled)
    if redis.removed and 0 in redis.pending and 0 not in state.flying:
        yield ("withdraw",), state._replace(redis=_ended(redis, 0))
    for row in redis.pending:
        if row not in state.flying and not (row == 0 and redis.removed):
            yield ("start", row), _started(state, row)
    if redis.outbox:
        receipts = tuple(sorted({*state.kafka.receipts, *redis.outbox}))
        told = state.kafka._replace(receipts=receipts)
        yield ("relay",), state._replace(redis=redis._replace(outbox=()), kafka=told)


def _commit(state: State, redis: Redis) -> Iterator[tuple[Label, State]]:
    """What Redis confirmed, and as much of it as its disk has for certain."""
    sure = state.disk or redis
    kafka = state.kafka._replace(push=(redis.push, sure.push), batch=(redis.batch, sure.batch))
    if kafka != state.kafka:
        yield ("commit",), state._replace(kafka=kafka)


def taken(redis: Redis) -> Redis:
    """Push takes the next record."""
    row = redis.push
    redis = redis._replace(push=row + 1)
    if row == REMOVAL:
        return redis._replace(removed=True)
    if redis.parked or len(redis.pending) >= CAP:
        return redis._replace(parked=(*redis.parked, row))
    return redis._replace(pending=(*redis.pending, row))


def _ended(redis: Redis, row: int) -> Redis:
    pending = tuple(one for one in redis.pending if one != row)
    return redis._replace(pending=pending, outbox=(*redis.outbox, row))


def _started(state: State, row: int) -> State:
    breach = state.breach
    if state.effects[row] and row in state.kafka.receipts and row not in state.excused:
        breach = "a delivery that a receipt tells of is pushed again"
    if row == 0 and state.gone:
        breach = "what was removed is pushed"
    return state._replace(flying=(*state.flying, row), breach=breach)


def _applied(state: State, rows: Rows) -> State:
    return state._replace(effects=tuple(min(2, n + (row in rows)) for row, n in enumerate(state.effects)))


def _delivered(state: State, row: int) -> State:
    """The receiver has it, and Redis is told if it still knows of it."""
    redis, flying = state.redis, tuple(one for one in state.flying if one != row)
    if redis is not None and not redis.building and row in redis.pending:
        redis = _ended(redis, row)
    return _applied(state, (row,))._replace(redis=redis, flying=flying)


def _collecting(state: State, redis: Redis) -> Iterator[tuple[Label, State]]:
    if redis.batch < LOG:
        yield ("collect",), state._replace(redis=collected(redis))
    n = redis.window
    if redis.stage == "closed" and redis.open and n < WINDOWS:
        yield ("seal",), state._replace(redis=sealed(redis, n + 1))
    elif redis.stage == "sealed" and redis.held:
        # A person looks whether the advertiser has it.
        stage = "ended" if state.files[n - 1] is not None else "sealed"
        yield ("person",), state._replace(redis=redis._replace(held=False, stage=stage))
    elif redis.stage == "sealed" and len(state.kafka.manifests) < n:
        manifests = (*state.kafka.manifests, Told(redis.start, redis.to))
        yield from _durable(("tell",), state._replace(kafka=state.kafka._replace(manifests=manifests)))
    elif redis.stage == "sealed":
        yield from _sending(state, redis, n - 1)
    elif redis.stage == "ended":
        told = Told(redis.start, redis.to, ended=True)
        manifests = (*state.kafka.manifests[: n - 1], told)
        closed = redis._replace(stage="closed", sealed=(), restored=False)
        after = state._replace(redis=closed, kafka=state.kafka._replace(manifests=manifests))
        yield ("close",), after


def _sending(state: State, redis: Redis, n: int) -> Iterator[tuple[Label, State]]:
    if state.files[n] is None or redis.restored:
        already = state.files[n] or ()
        files = (*state.files[:n], (*already, *redis.sealed), *state.files[n + 1 :])
        # Sent by whom a person let go, or for the first time: from now on Redis knows.
        yield ("send",), state._replace(files=files, redis=redis._replace(restored=False))
    else:
        # Whoever comes next sees on the server that it is there.
        yield from _durable(("end",), state._replace(redis=redis._replace(stage="ended")))


def _durable(label: Label, state: State) -> Iterator[tuple[Label, State]]:
    """Behind a barrier."""
    yield label, state._replace(disk=state.redis) if state.disk is not None else state


def collected(redis: Redis) -> Redis:
    """Collect takes the next record."""
    row = redis.batch
    redis = redis._replace(batch=row + 1)
    if row == REMOVAL:
        return redis._replace(removed_batch=True)
    return redis._replace(open=(*redis.open, row)) if row >= redis.to else redis


def sealed(redis: Redis, number: int) -> Redis:
    rows = tuple(row for row in redis.open if not (row == 0 and redis.removed_batch))
    place = {"window": number, "start": redis.to, "to": redis.batch}
    return redis._replace(open=(), sealed=rows, stage="sealed", **place)


def _begun(state: State) -> State:
    return state._replace(redis=Redis(building=STAGES[0]), excused=(), looked=True)


def rebuilt(redis: Redis, kafka: Kafka, bug: Bug | None = None) -> Redis:
    """After the stage that is next."""
    stage = redis.building
    newest = kafka.manifests[-1] if kafka.manifests and bug is not Bug.FORGETS_FLOORS else None
    after = redis._replace(building=STAGES[STAGES.index(stage) + 1] if stage != STAGES[-1] else None)
    match stage:
        case "survey" if bug is not Bug.FORGETS_REMOVALS:
            return after._replace(removed=True, removed_batch=True)
        case "floors" if newest is not None:
            floor = newest.to if newest.ended else newest.start
            return after._replace(
                window=len(kafka.manifests) - (not newest.ended), to=floor, start=newest.start
            )
        case "push":
            return _replayed(after, kafka, bug)
        case "batch":
            return _refilled(after, kafka, newest)
        case "windows" if newest is not None and not newest.ended:
            return after._replace(held=bug is not Bug.RELEASES, restored=True)
        case _:
            return after


def _replayed(redis: Redis, kafka: Kafka, bug: Bug | None) -> Redis:
    upto, receipts = kafka.push[0], () if bug is Bug.FORGETS_RECEIPTS else kafka.receipts
    if bug is not Bug.COMMITS_ALONE:
        upto = max([upto, *(row + 1 for row in receipts)])
    if bug is Bug.NO_REPLAY:
        return redis._replace(push=upto)
    removed = redis.removed
    while redis.push < upto:
        redis = redis._replace(push=redis.push + 1) if redis.push in receipts else taken(redis)
    return redis._replace(removed=removed)


def _refilled(redis: Redis, kafka: Kafka, newest: Told | None) -> Redis:
    upto = max(kafka.batch[0], newest.to if newest else 0)
    removed, floor = redis.removed_batch, redis.to
    while redis.batch < upto:
        redis = collected(redis)._replace(removed_batch=removed)
        if newest is not None and not newest.ended and redis.batch == newest.to:
            redis = sealed(redis, redis.window + 1)._replace(start=floor)
    return redis
