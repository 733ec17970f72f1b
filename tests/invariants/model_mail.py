"""One window's mails, two recipients by two files: made and kept, an intent before each, takeovers, lost answers.

A recipient may be refused at any mail, a relay may be busy or not answer, a worker may die or be overtaken between
any two steps, Redis falls back to its last barrier. Law: under `hold` nobody gets a file twice, under `resend`
nobody misses one, all copies are of one making, and of what was kept nothing stays.
"""

from collections.abc import Iterator
from enum import Enum

from tests.invariants.explore import Label, Model
from tests.invariants.mail_state import (
    MAILS,
    RECIPIENTS,
    TROUBLES,
    Kept,
    Redis,
    State,
    Window,
    Worker,
    first_byte_left,
    is_refused,
    put,
)


class Bug(Enum):
    INTENT_AFTER_DATA = "the intent is written after the data"
    INTENT_NOT_DURABLE = "the intent is not durable before the data"
    MADE_ANEW = "files are made anew after the first byte"
    CLEARS_ALL = "where all are refused, all states are cleared"
    CLEARS_FIRST_BYTE = "an uncertain mail that goes again leaves nothing behind"
    KEPT_BY_CONNECTION = "files are kept under the connection's name alone"
    NEVER_FORGOTTEN = "what was kept is not forgotten at the end"
    WAITS_FOR_REFUSED = "a refused recipient is asked again and again"


def mail(
    bug: Bug | None = None,
    *,
    hold: bool = True,
    leaving: bool = False,
    troubles: int = TROUBLES,
) -> Model[State]:
    """`hold`: what becomes of uncertain mails, else they go again. `leaving`: at some moment a recipient's address
    is gone for good.
    """
    return Model(
        # Each trouble costs two tries at most, the one it ends and the one that makes up for it: who needs more
        # than that never ends.
        initial=State(troubles=troubles, claims=2 + 2 * troubles, leaving=leaving),
        steps=lambda state: _steps(state, bug, hold=hold),
        broken=lambda state: _broken(state, hold=hold),
        goal=lambda state: state.redis.window.state == "CLOSED",
        same=lambda state: state._replace(workers=tuple(sorted(state.workers, key=hash))),
    )


def _broken(state: State, *, hold: bool) -> str | None:
    window = state.redis.window
    if hold and any(copies > 1 for copies, _ in state.got):
        return "somebody got a file twice"
    if len(frozenset().union(*(makings for _, makings in state.got))) > 1:
        return "copies of two makings"
    for n, (copies, _) in enumerate(state.got):
        if window.mails[n] == "D" and not copies:
            return "it counts as delivered, and never was"
        over = state.durable.window.state in {"ENDED", "CLOSED"}
        open_ = window.mails[n] in {"", "S"} or (window.mails[n] == "U" and not hold)
        if over and open_ and not is_refused(window, n % RECIPIENTS):
            return "a window ended, and somebody is not served"
    if window.state == "CLOSED" and any(kept.told for kept in state.redis.kept):
        return "something is kept for ever"
    return None


def _steps(state: State, bug: Bug | None, *, hold: bool) -> Iterator[tuple[Label, State]]:
    if state.leaving:
        for recipient in range(RECIPIENTS):
            yield ("left", recipient), state._replace(leaving=False, gone=recipient)
    if state.troubles and state.redis != state.durable:
        yield ("crash",), _troubled(state)._replace(redis=state.durable, workers=(Worker(), Worker()))
    for i, worker in enumerate(state.workers):
        others = any(other.view is not None for j, other in enumerate(state.workers) if j != i)
        view = worker.view
        if view is None:
            over = state.redis.window.state == "CLOSED" or state.tokens == state.claims
            if not over and (state.troubles or not others):
                yield ("claim", i), _claimed(_troubled(state) if others else state, i, bug)
            continue
        if state.troubles:
            yield ("die", i), _with(_troubled(state), i, Worker())
        match worker.stage:
            case "make":
                yield ("make", i), _made(state, i, worker, view, bug)
            case "tell":
                yield ("tell", i), _told(state, i, worker, view, bug)
            case "next":
                yield from _next(state, i, worker, view, bug, hold=hold)
            case "data" | "note":
                yield from _mailing(state, i, worker, view, bug, hold=hold)
            case "end":
                yield ("end", i), _ended(state, i, worker, view, bug)
            case _:
                yield ("close", i), _closed(state, i, worker, view, bug)


def _claimed(state: State, i: int, bug: Bug | None) -> State:
    token = state.tokens + 1
    window = state.redis.window._replace(token=token)
    redis = state.redis._replace(window=window)
    anew = not first_byte_left(window) or bug is Bug.MADE_ANEW
    stage = "close" if window.state == "ENDED" else "make" if anew else "next"
    claimed = state._replace(redis=redis, durable=redis, tokens=token)
    return _with(claimed, i, Worker(window, stage))


def _key(token: int, bug: Bug | None) -> int:
    return 0 if bug is Bug.KEPT_BY_CONNECTION else token


def _without(redis: Redis, key: int) -> Redis:
    return redis._replace(kept=frozenset(one for one in redis.kept if one.key != key))


def _made(state: State, i: int, worker: Worker, view: Window, bug: Bug | None) -> State:
    """Of an earlier making nothing has left; the new one is kept before it is told."""
    redis = _without(state.redis, _key(view.made, bug)) if view.made else state.redis
    key = _key(view.token, bug)
    redis = _without(redis, key)
    redis = redis._replace(kept=redis.kept | {Kept(key, view.token)})
    return _with(state._replace(redis=redis), i, worker._replace(stage="tell"))


def _told(state: State, i: int, worker: Worker, view: Window, bug: Bug | None) -> State:
    key = _key(view.token, bug)
    if state.redis.window.token != view.token:
        return _with(state._replace(redis=_without(state.redis, key)), i, Worker())
    told = view._replace(state="SENDING", made=view.token)
    kept = frozenset(one._replace(told=one.told or one.key == key) for one in state.redis.kept)
    after = state._replace(redis=state.redis._replace(kept=kept))
    return _advanced(after, i, worker._replace(stage="next"), told)


def _next(
    state: State, i: int, worker: Worker, view: Window, bug: Bug | None, *, hold: bool
) -> Iterator[tuple[Label, State]]:
    """What becomes of the mail it is at, up to its intent."""
    if worker.at == MAILS:
        yield ("all seen", i), _with(state, i, worker._replace(stage="end"))
        return
    here, at = view.mails[worker.at], worker.at
    goes_on = worker._replace(at=at + 1)
    if here == "S":
        yield ("died sending", i), _uncertain(state, i, goes_on, view, at, bug, hold=hold)
        return
    if here in {"D", "U"} or is_refused(view, at % RECIPIENTS):
        yield ("pass", i), _with(state, i, goes_on)
        return
    if not any((one.key, one.making) == (_key(view.made, bug), view.made) for one in state.redis.kept):
        yield ("gone", i), _with(state, i, worker._replace(stage="end", trouble=True))
        return
    gone = at % RECIPIENTS == state.gone
    if gone or state.troubles:
        after = state if gone else _troubled(state)
        waits = bug is Bug.WAITS_FOR_REFUSED
        rejected = view._replace(mails=put(view.mails, at, "" if waits else "R"))
        left = goes_on._replace(trouble=goes_on.trouble or waits)
        yield ("refused", i), _advanced(after, i, left, rejected, durable=True)
    if gone:
        return
    if state.troubles:
        busy = view._replace(mails=put(view.mails, at, ""))
        yield ("busy", i), _advanced(_troubled(state), i, goes_on._replace(trouble=True), busy)
    if bug is Bug.INTENT_AFTER_DATA:
        yield ("no intent", i), _with(state, i, worker._replace(stage="data"))
    else:
        intent = view._replace(mails=put(view.mails, at, "S"))
        durable = bug is not Bug.INTENT_NOT_DURABLE
        yield ("intent", i), _advanced(state, i, worker._replace(stage="data"), intent, durable=durable)


def _mailing(
    state: State, i: int, worker: Worker, view: Window, bug: Bug | None, *, hold: bool
) -> Iterator[tuple[Label, State]]:
    at = worker.at
    goes_on = worker._replace(stage="next", at=at + 1)
    if worker.stage == "data":
        copies, makings = state.got[at]
        got = put(state.got, at, (min(2, copies + 1), makings | {view.made}))
        yield ("data", i), _with(state._replace(got=got), i, worker._replace(stage="note"))
        if state.troubles:
            cut = view._replace(mails=put(view.mails, at, ""))
            yield (
                ("cut before the end", i),
                _advanced(_troubled(state), i, goes_on._replace(trouble=True), cut),
            )
        return
    delivered = view._replace(mails=put(view.mails, at, "D"))
    yield ("answered", i), _advanced(state, i, goes_on, delivered, durable=True)
    if state.troubles:
        yield ("no answer", i), _uncertain(_troubled(state), i, goes_on, view, at, bug, hold=hold)


def _uncertain(
    state: State, i: int, worker: Worker, view: Window, at: int, bug: Bug | None, *, hold: bool
) -> State:
    told = view._replace(
        mails=put(view.mails, at, "U" if hold else ""), uncertain=bug is not Bug.CLEARS_FIRST_BYTE
    )
    # Under `resend` the same try has passed it: another one sends it again.
    return _advanced(state, i, worker._replace(trouble=worker.trouble or not hold), told, durable=True)


def _ended(state: State, i: int, worker: Worker, view: Window, bug: Bug | None) -> State:
    """The end of a try: of the window, or until the next one."""
    trouble = worker.trouble
    if not trouble and all(is_refused(view, recipient) for recipient in range(RECIPIENTS)):
        trouble = True
        clears = set("RDUS") if bug is Bug.CLEARS_ALL else {"R"}
        view = view._replace(mails=tuple("" if told in clears else told for told in view.mails))
    if not trouble:
        return _advanced(state, i, worker._replace(stage="close"), view._replace(state="ENDED"), durable=True)
    if not first_byte_left(view):
        state = state._replace(redis=_without(state.redis, _key(view.made, bug)))
        view = view._replace(state="SEALED", made=0)
    return _advanced(state, i, Worker(), view)


def _closed(state: State, i: int, worker: Worker, view: Window, bug: Bug | None) -> State:
    if view.made and bug is not Bug.NEVER_FORGOTTEN:
        state = state._replace(redis=_without(state.redis, _key(view.made, bug)))
    return _advanced(state, i, Worker(), view._replace(state="CLOSED"))


def _advanced(state: State, i: int, worker: Worker, after: Window, *, durable: bool = False) -> State:
    """The script; with `durable`, and the barrier behind it. A Worker() has no turn any more."""
    if state.redis.window.token != after.token:
        return _with(state, i, Worker())
    redis = state.redis._replace(window=after)
    written = state._replace(redis=redis, durable=redis if durable else state.durable)
    return _with(written, i, worker if worker == Worker() else worker._replace(view=after))


def _troubled(state: State) -> State:
    return state._replace(troubles=state.troubles - 1)


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=put(state.workers, i, worker))
