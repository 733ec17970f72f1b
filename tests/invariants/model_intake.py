"""Records from Kafka to Redis: one compare-and-set, with crashes of Redis, lost replies and former owners.

One partition of Kafka, two workers, and a Redis whose memory falls back to its last snapshot when it crashes. Any
worker may believe that it owns the partition, for as long as it likes. Law: whatever happens, the rows in Redis are
those of the records below `next`, each once; nobody is told otherwise; and everything gets in.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.invariants.explore import Label, Model

Log = tuple[str, ...]
#: A referral, a record that cannot be decoded, and the first again: upstream publishes twice.
LOG = ("a", "broken", "a", "b")
MOVES = 2  # rebalances
BATCH = 2  # records at most


class Bug(Enum):
    NO_EPOCH = "rows are accepted from anyone at the right offset"
    EPOCH_TWICE = "an epoch that was lost in a crash is handed out again"
    GREATER_THAN = "any offset beyond the stored one is accepted"
    VERDICTS_NOT_KEPT = "a repeat is judged anew"
    IDLE_ASKS_NOTHING = "an owner with nothing to write never looks at Redis's offset"
    TWO_CALLS = "rows first, the offset in a second call"


class Redis(NamedTuple):
    """`prev` and `verdicts` are the last call's; rows are offsets, in order of arrival."""

    epoch: int = 0
    owner: int = -1
    next: int = 0
    prev: int = -1
    verdicts: str = ""
    rows: tuple[int, ...] = ()


class Call(NamedTuple):
    prev: int
    next: int
    epoch: int
    owner: int
    half_done: bool = False


class Ok(NamedTuple):
    verdicts: str


class Fenced(NamedTuple):
    epoch: int


class Moved(NamedTuple):
    next: int


class Worker(NamedTuple):
    """`top`: the highest epoch it ever had, its own while it is an owner. `went_back`: it knows that Redis did.

    An answer is obeyed in the step that makes it: in between, nobody else sees the difference.
    """

    owner: bool = False
    top: int = 0
    next: int = 0
    call: Call | None = None
    went_back: bool = False


class State(NamedTuple):
    """`durable`: the last snapshot, while a crash is still to come. `assigned`: whom Kafka means.
    `orphan`: a call its sender gave up on. `issued`: the highest epoch ever, as Redis's clock
    vouches for it, which does not fall back in a crash. `breach`: what no later step can undo.
    """

    redis: Redis = Redis()
    durable: Redis | None = Redis()
    workers: tuple[Worker, ...] = (Worker(), Worker())
    assigned: int = -1
    orphan: Call | None = None
    issued: int = 0
    breach: str | None = None
    moves: int = MOVES
    crashes: int = 1


def intake(bug: Bug | None = None, log: Log = LOG, crashes: int = 1) -> Model[State]:
    """`crashes` of Redis."""
    return Model(
        initial=State(crashes=crashes),
        steps=lambda state: _steps(state, bug, log),
        broken=lambda state: _broken(state, log),
        goal=lambda state: _all_in(state, log),
    )


def verdicts_of(log: Log, prev: int, until: int, rows: tuple[int, ...]) -> str:
    """A letter a record, as the script gives them: accepted, duplicate, noted."""
    known = {log[row] for row in rows}
    letters = []
    for record in log[prev:until]:
        letters.append("N" if record == "broken" else "D" if record in known else "A")
        known.add(record)
    return "".join(letters)


def expected_rows(log: Log, until: int) -> tuple[int, ...]:
    return tuple(offset for offset, letter in enumerate(verdicts_of(log, 0, until, ())) if letter == "A")


def _broken(state: State, log: Log) -> str | None:
    redis = state.redis
    if len(set(redis.rows)) < len(redis.rows):
        return "a record is in Redis twice"
    if any(row >= redis.next for row in redis.rows):
        return "Redis holds a row beyond its offset"
    if set(redis.rows) < set(expected_rows(log, redis.next)):
        return "a record below the offset is lost"
    if redis.rows != expected_rows(log, redis.next):
        return "a duplicate has become a row"
    return state.breach


def _all_in(state: State, log: Log) -> bool:
    worker = state.workers[state.assigned]
    return state.redis.next == worker.next == len(log) and worker.owner and worker.call is None


def _steps(state: State, bug: Bug | None, log: Log) -> Iterator[tuple[Label, State]]:
    if state.durable is not None and state.durable != state.redis:
        yield ("fsync",), state._replace(durable=state.redis)
        crashes = state.crashes - 1
        durable = state.durable if crashes else None
        # What waits in a dead server's sockets is gone.
        yield ("crash",), state._replace(redis=state.durable, durable=durable, orphan=None, crashes=crashes)
    if state.orphan is not None:
        after, _, left = carried_out(state, state.orphan, bug, log)
        yield ("run late",), after._replace(orphan=left)
    for i, worker in enumerate(state.workers):
        if state.moves and state.assigned != i:
            yield ("take", i), _taken(state._replace(assigned=i, moves=state.moves - 1), i, bug)
        if worker.went_back:
            yield ("take again", i), _taken(state, i, bug)
        elif not worker.owner:
            if state.assigned == i:
                yield ("restart", i), _taken(state, i, bug)
        elif worker.call is None:
            idle = bug is not Bug.IDLE_ASKS_NOTHING and worker.next == len(log)
            for until in range(worker.next + (not idle), min(worker.next + BATCH, len(log)) + 1):
                call = Call(worker.next, until, worker.top, i)
                yield ("send", i, until), _with(state, i, worker._replace(call=call))
        else:
            after, reply, left = carried_out(state, worker.call, bug, log)
            if left is None:
                yield ("run", i), _obeyed(after, i, worker.call, reply, log)
                yield ("run, reply lost", i), after
            else:
                yield ("run half", i), _with(after, i, worker._replace(call=left))
            if state.orphan is None:
                yield ("send again", i), state._replace(orphan=worker.call)


def _taken(state: State, i: int, bug: Bug | None) -> State:
    redis = state.redis
    epoch = 1 + (max(redis.epoch, state.workers[i].top) if bug is Bug.EPOCH_TWICE else state.issued)
    orphan = state.orphan if bug is Bug.NO_EPOCH else None  # fenced for good: a crash would end it
    taken = state._replace(redis=redis._replace(epoch=epoch, owner=i), orphan=orphan, issued=epoch)
    return _with(taken, i, Worker(True, epoch, redis.next))


def _obeyed(state: State, i: int, call: Call, reply: Ok | Fenced | Moved, log: Log) -> State:
    worker = state.workers[i]._replace(call=None)
    match reply:
        case Ok(verdicts):
            told = {call.prev + at for at, letter in enumerate(verdicts) if letter == "D"}
            lie = "a delivered record is reported as a duplicate"
            breach = lie if told & set(expected_rows(log, len(log))) else state.breach
            return _with(state, i, worker._replace(next=call.next))._replace(breach=breach)
        case Moved(next_offset):
            return _with(state, i, worker._replace(next=next_offset))
        case Fenced(epoch):
            went_back = epoch < call.epoch
            return _with(state, i, Worker(went_back, worker.top, went_back=went_back))


def carried_out(
    state: State, call: Call, bug: Bug | None, log: Log
) -> tuple[State, Ok | Fenced | Moved, Call | None]:
    """The script: the state after it, its answer, and what remains to be carried out."""
    redis = state.redis
    owner = (redis.epoch, redis.owner) == (call.epoch, call.owner)
    if redis.epoch != call.epoch and bug is not Bug.NO_EPOCH:
        return state, Fenced(redis.epoch), None
    breach = state.breach if owner else "a former owner was obeyed"
    if (redis.prev, redis.next) == (call.prev, call.next):
        judged_anew = bug is Bug.VERDICTS_NOT_KEPT
        verdicts = verdicts_of(log, call.prev, call.next, redis.rows) if judged_anew else redis.verdicts
        return state._replace(breach=breach), Ok(verdicts), None
    fits = call.prev >= redis.next if bug is Bug.GREATER_THAN else call.prev == redis.next
    if not fits:
        return state._replace(breach=breach), Moved(redis.next), None
    verdicts = redis.verdicts if call.half_done else verdicts_of(log, call.prev, call.next, redis.rows)
    new = () if call.half_done else tuple(call.prev + at for at, v in enumerate(verdicts) if v == "A")
    rows = redis.rows + new
    if bug is Bug.TWO_CALLS and not call.half_done:
        half = redis._replace(rows=rows, verdicts=verdicts)
        return state._replace(redis=half), Ok(verdicts), call._replace(half_done=True)
    full = redis._replace(prev=call.prev, next=call.next, verdicts=verdicts, rows=rows)
    return state._replace(redis=full, breach=breach), Ok(verdicts), None


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
