"""Who may start a request for a delivery: owner epochs and leases, with paused workers and late messages.

One partition, one delivery. Times are ticks left, so time never ends and the state space stays finite. Epochs are
reduced to what the scripts ask of them: is this caller's epoch the stored one? A paused worker is one that takes no
step while time passes. Law: the right to start a delivery is never held twice, and a recorded fact stays recorded.
"""

from collections.abc import Iterator
from enum import Enum

from tests.invariants.explore import Label, Model
from tests.invariants.ownership_state import LEASE, Call, Delivery, Held, State, Worker

WORKERS = (
    2  # enough: a worker that takes again counts as a new owner, and its own calls before as a former one's
)


class Bug(Enum):
    LOADS_EARLY = "a new owner loads before the old lease ended"
    LEASE_FROM_REPLY = "the lease is counted from the reply"
    WAIT_FROM_SEND = "the wait is counted from the send"
    REPEAT_KEEPS_LEASE = "a repeat is answered, but does not renew the lease"
    NO_EPOCH = "renewing is accepted from anyone"
    GIVING_BACK_CLEARS_BARRIER = "giving back clears the barrier"
    LEASE_WITHOUT_BARRIER = "taking forgets the owner before the last one"
    LOAD_NOT_FENCED = "pending deliveries are read without comparing the epoch"
    RELOADS_ITS_OWN = "a worker loads again what it has in flight or has ended itself"
    RESCHEDULE_NOT_FENCED = "a reschedule is accepted from anyone and for anything"
    RESCHEDULE_REVIVES = "the owner's reschedule revives what was delivered"


class Late(Enum):
    """Which messages take their time; both at once would only multiply the states."""

    CALLS = "calls and answers"
    REPORTS = "facts and reschedules"


def ownership(late: Late, bug: Bug | None = None, workers: int = WORKERS) -> Model[State]:
    return Model(
        initial=State((Worker(),) * workers),
        steps=lambda state: _steps(state, bug, late),
        broken=_broken,
        goal=lambda state: any(worker.may_start() for worker in state.workers) or state.fact,
        same=lambda state: state._replace(workers=tuple(sorted(state.workers, key=hash))),
    )


def _broken(state: State) -> str | None:
    if sum(worker.may_start() for worker in state.workers) > 1:
        return "two workers may start the same delivery"
    if any(worker.may_start() and worker.ends_it() for worker in state.workers):
        return "a worker may start what it has in flight or has ended itself"
    if state.fact and state.delivery is not Delivery.DONE:
        return "a delivered delivery is pending again"
    return None


def _steps(state: State, bug: Bug | None, late: Late) -> Iterator[tuple[Label, State]]:
    if (later := _tick(state)) != state:
        yield ("tick",), later
    if state.orphan is not None:
        yield ("late",), _carried_out(state, state.orphan, None, bug)[0]._replace(orphan=None)
        yield ("late lost",), state._replace(orphan=None)
    for i, worker in enumerate(state.workers):
        if late is Late.REPORTS:
            for (_, _, kind), sent in _sends(state, i, bug):
                yield ("do", i, kind), _at_once(sent, i, bug)
            yield from _requests(state, i, bug)
        elif worker.call is None:
            yield from _sends(state, i, bug)
        else:
            yield from _answered(state, i, worker.call, bug)


def _sends(state: State, i: int, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    worker = state.workers[i]
    yield ("send", i, "take"), _with(state, i, worker.dropped()._replace(call=Call("take", False)))
    if worker.owner:
        yield ("send", i, "renew"), _with(state, i, worker._replace(call=Call("renew", worker.mine)))
        yield (
            ("send", i, "give back"),
            _with(state, i, worker.dropped()._replace(call=Call("give back", worker.mine))),
        )
        waited = worker.wait == 0 or bug is Bug.LOADS_EARLY
        may_load = not worker.ends_it() or bug is Bug.RELOADS_ITS_OWN
        if waited and may_load and worker.held is Held.NOTHING:
            yield ("send", i, "load"), _with(state, i, worker._replace(call=Call("load", worker.mine)))


def _answered(state: State, i: int, call: Call, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    worker = state.workers[i]
    if call.reply is not None:
        yield ("reply", i, call.kind), _with(state, i, _told(worker, call, call.reply, bug))
        accepted = call.kind == "renew" and call.reply == 2
        repeats = worker.repeats or (accepted and bug is Bug.REPEAT_KEEPS_LEASE)
        yield ("reply lost", i), _with(state, i, worker._replace(call=None, repeats=repeats))
        return
    after, answered = _run(state, i, call, bug)
    nobody_waits = call.kind == "give back"
    yield (
        ("run", i, call.kind),
        _with(after, i, after.workers[i]._replace(call=None if nobody_waits else answered)),
    )
    if state.orphan is None:
        has_effect = call.kind == "take" or (call.mine and call.kind != "load")
        orphan = call._replace(age=0) if has_effect else None
        yield ("give up", i), _with(state, i, worker._replace(call=None))._replace(orphan=orphan)


def _run(state: State, i: int, call: Call, bug: Bug | None) -> tuple[State, Call]:
    """The state after a worker's call, and the call with its answer: all that still matters of it."""
    after, reply = _carried_out(state, call, i, bug)
    takes = call.kind == "take"
    return after, Call(call.kind, takes, call.age, reply)


def _at_once(state: State, i: int, bug: Bug | None) -> State:
    call = state.workers[i].call
    assert call is not None
    after, answered = _run(state, i, call, bug)
    assert answered.reply is not None
    return _with(after, i, _told(after.workers[i], answered, answered.reply, bug))


def _told(worker: Worker, call: Call, reply: int, bug: Bug | None) -> Worker:
    """What a worker makes of an answer: its lease runs from when it SENT the call, its wait from the answer."""
    lease = LEASE if bug is Bug.LEASE_FROM_REPLY else max(0, LEASE - call.age)
    free = worker._replace(call=None)
    match call.kind, reply:
        case "take", wait:
            wait = max(0, wait - call.age) if bug is Bug.WAIT_FROM_SEND else wait
            return free._replace(owner=True, mine=call.mine, left=lease, wait=wait)
        case "give back", _:
            return free
        case _, 0:
            return free.dropped()
        case kind, granted:
            if kind == "renew":
                free = free._replace(left=max(worker.left, lease), repeats=False)
            if granted == 2:  # the only delivery there is: nothing is left to wait for
                return free._replace(wait=0, held=Held.IDLE)
            return free


def _carried_out(state: State, call: Call, sender: int | None, bug: Bug | None) -> tuple[State, int]:
    """One script in Redis: the state after it and its answer."""
    mine = call.mine
    match call.kind:
        case "take":
            barrier = state.lease if bug is Bug.LEASE_WITHOUT_BARRIER else max(state.barrier, state.lease)
            fenced = tuple(_fenced(worker, i == sender) for i, worker in enumerate(state.workers))
            orphan = state.orphan if state.orphan is not None and state.orphan.kind == "take" else None
            return state._replace(workers=fenced, orphan=orphan, barrier=barrier, lease=LEASE), barrier
        case "renew" if mine or bug is Bug.NO_EPOCH:
            if state.delivery is Delivery.IN_KAFKA:
                return state._replace(lease=LEASE, delivery=Delivery.PENDING), 2
            keeps = sender is not None and state.workers[sender].repeats
            return state._replace(lease=state.lease if keeps else LEASE), 1
        case "load" if mine or bug is Bug.LOAD_NOT_FENCED:
            return state, 2 if state.delivery is Delivery.PENDING else 1
        case "give back" if mine:
            barrier = 0 if bug is Bug.GIVING_BACK_CLEARS_BARRIER else state.barrier
            return state._replace(lease=0, barrier=barrier), 1
        case "delivered":
            return state._replace(delivery=Delivery.DONE, fact=True, lease=LEASE if mine else state.lease), 1
        case "reschedule":
            revived = bug is Bug.RESCHEDULE_NOT_FENCED or (bug is Bug.RESCHEDULE_REVIVES and mine)
            delivery = Delivery.PENDING if revived else state.delivery
            return state._replace(delivery=delivery, lease=LEASE if mine else state.lease), 1
        case _:
            return state, 0


def _fenced(worker: Worker, takes: bool) -> Worker:
    """The taker's call carries the new epoch; every other epoch and message is now a former owner's."""
    call = None if worker.call is None else worker.call._replace(mine=takes)
    report = None if worker.report is None else worker.report._replace(mine=False)
    return worker._replace(mine=False, call=call, report=report)


def _requests(state: State, i: int, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    worker = state.workers[i]
    if worker.held is Held.IDLE and worker.left > 0:
        yield ("start", i), _with(state, i, worker._replace(held=Held.IN_FLIGHT))
    if worker.report is not None:
        after = _carried_out(state, worker.report, i, bug)[0]
        yield ("run", i, worker.report.kind), _with(after, i, after.workers[i]._replace(report=None))
        return
    if worker.held is Held.IN_FLIGHT:
        done = worker._replace(held=Held.NOTHING, report=Call("delivered", worker.mine))
        yield ("send", i, "delivered"), _with(state, i, done)
        again = worker._replace(held=Held.IDLE, report=Call("reschedule", worker.mine))
        yield ("send", i, "reschedule"), _with(state, i, again)
    if worker.stray:
        free = worker._replace(stray=False)
        yield ("send", i, "stray delivered"), _with(state, i, free._replace(report=Call("delivered", False)))
        yield ("stray failed", i), _with(state, i, free)


def _tick(state: State) -> State:
    workers = tuple(
        worker._replace(
            left=max(0, worker.left - 1),
            wait=max(0, worker.wait - 1),
            call=worker.call.older() if worker.call and worker.call.counts() else worker.call,
        )
        for worker in state.workers
    )
    return state._replace(workers=workers, lease=max(0, state.lease - 1), barrier=max(0, state.barrier - 1))


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:i], worker, *state.workers[i + 1 :]))
