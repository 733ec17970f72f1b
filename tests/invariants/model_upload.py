"""One window of several files on a server: uploaded, pinned, named, closed, while everything that can fail does.

Two workers; leases end at any time, a worker dies or its line is cut between any two steps, replies are lost, Redis
falls back to its last barrier, the connection is edited, the receiver takes files away, a stranger's has our name.
Law: every file is final exactly once, all from one making, the document after all it lists, and the window closes.
"""

from collections.abc import Iterator
from enum import Enum
from typing import TypeVar

from tests.invariants.explore import Label, Model
from tests.invariants.upload_state import FILES, FOREIGN, TROUBLES, Part, State, Window, Worker

Item = TypeVar("Item")


class Bug(Enum):
    UPLOADED_NOT_DURABLE = "UPLOADED is not durable before the first rename"
    EXISTS_MEANS_RENAMED = "a final name that exists is taken for ours"
    SWEEPS_PINNED = "the sweep before delivery looks at no pin"
    SWEEPS_FOLLOWERS = "the sweep takes what a follower uploads"
    LIST_NOT_WHOLE = "files are renamed before the list is whole"
    PIN_NOT_FENCED = "a pin is taken from whoever was overtaken"
    SIDECAR_FIRST = "the document gets its name first"
    GOES_ON_EDITED = "files of an edited connection go on where those before ended"


def upload(bug: Bug | None = None, troubles: int = TROUBLES) -> Model[State]:
    return Model(
        initial=State(troubles=troubles),
        steps=lambda state: _steps(state, bug),
        broken=_broken,
        goal=lambda state: state.redis.number == 2,  # noqa: PLR2004 - the next one
        same=lambda state: state._replace(workers=tuple(sorted(state.workers, key=hash))),
    )


def _broken(state: State) -> str | None:
    if any(len(got) > 1 for got in state.got):
        return "a file got its name twice"
    if len({made for got in state.got for made in got}) > 1:
        return "files of two makings"
    if state.got[-1] and not all(state.got):
        return "the document came before what it lists"
    over = state.durable.state in {"ENDED", "CLOSED"} or state.durable.number > 1
    if over and not all(state.got):
        return "a window ended, and a file never came"
    return state.breach


def _steps(state: State, bug: Bug | None) -> Iterator[tuple[Label, State]]:
    if not state.edit:
        yield ("edit",), state._replace(edit=1)
    if state.foreign and state.final[FOREIGN] is None:
        yield ("foreign comes",), state._replace(foreign=False, final=_put(state.final, FOREIGN, -1))
    for n, made in enumerate(state.final):
        if made is not None:
            gone = state._replace(final=_put(state.final, n, None))
            yield (("foreign goes",) if made < 0 else ("taken away", n)), gone
    if state.troubles and state.redis != state.durable:
        yield ("crash",), _troubled(state)._replace(redis=state.durable, workers=(Worker(), Worker()))
    for i, worker in enumerate(state.workers):
        others = any(other.view is not None for j, other in enumerate(state.workers) if j != i)
        if worker.view is None:
            if state.redis.number == 1 and (state.troubles or not others):
                yield ("claim", i), _claimed(_troubled(state) if others else state, i)
            continue
        if state.troubles:
            yield ("die", i), _with(_troubled(state), i, Worker())
        yield from _turn(state, i, worker, worker.view, bug)


def _claimed(state: State, i: int) -> State:
    """Opened, or taken over; its token is durable before anything moves."""
    redis, tokens = state.redis, state.tokens + 1
    if redis.state == "CLOSED":
        redis = Window(number=2, token=tokens)
        return state._replace(redis=redis, durable=redis, tokens=tokens)
    redis = redis._replace(token=tokens)
    stage = {"UPLOADED": "name", "ENDED": "ended"}.get(redis.state, "upload")
    after = state._replace(redis=redis, durable=redis, tokens=tokens)
    return _with(after, i, Worker(redis, state.edit, stage))


def _turn(
    state: State, i: int, worker: Worker, view: Window, bug: Bug | None
) -> Iterator[tuple[Label, State]]:
    match worker.stage:
        case "upload":
            part = Part(view.token, len(begun(worker, view, bug)), worker.made)
            uploaded = state._replace(parts=state.parts | {part})
            yield ("upload", i), _with(uploaded, i, worker._replace(stage="pin", holds=part))
            swept = state._replace(parts=_swept(state, view, bug))
            if swept != state:
                yield ("sweep first", i), swept
        case "pin":
            yield ("pin", i), _pinned(state, i, worker, view, bug)
        case "name":
            yield from _name(state, i, worker, view, bug)
        case "note":
            noted = view._replace(delivered=_put(view.delivered, _next(view, bug), True))
            yield ("note", i), _advanced(state, i, worker._replace(stage="name"), noted)
        case _:
            if view.state == "ENDED":
                yield ("close", i), _advanced(state, i, worker, view._replace(state="CLOSED"), over=True)


def begun(worker: Worker, view: Window, bug: Bug | None = None) -> tuple[Part, ...]:
    """The beginning of what it makes."""
    if view.pinned and view.pinned[0].made != worker.made and bug is not Bug.GOES_ON_EDITED:
        return ()
    return view.pinned


def _pinned(state: State, i: int, worker: Worker, view: Window, bug: Bug | None) -> State:
    assert worker.holds is not None
    pinned = (*begun(worker, view, bug), worker.holds)
    whole = len(pinned) == FILES
    after = view._replace(pinned=pinned, state="UPLOADED" if whole else "SEALED")
    stage = "name" if whole or bug is Bug.LIST_NOT_WHOLE else "upload"
    goes_on = worker._replace(stage=stage, holds=None)
    if _holds(state, view) or bug is Bug.PIN_NOT_FENCED:
        durable = not (whole and bug is Bug.UPLOADED_NOT_DURABLE)
        return _advanced(state, i, goes_on, after, durable=durable, fenced=bug is not Bug.PIN_NOT_FENCED)
    # Nobody will ever rename it.
    dropped = state._replace(parts=state.parts - {worker.holds})
    return _with(dropped, i, Worker())


def _name(
    state: State, i: int, worker: Worker, view: Window, bug: Bug | None
) -> Iterator[tuple[Label, State]]:
    n = _next(view, bug)
    if n >= len(view.pinned):
        if view.state != "UPLOADED":
            yield ("list on", i), _with(state, i, worker._replace(stage="upload"))
            return
        swept = state._replace(parts=_swept(state, view, bug))
        ended = view._replace(state="ENDED")
        yield ("end", i), _advanced(swept, i, worker._replace(stage="ended"), ended, durable=True)
        return
    part = view.pinned[n]
    noted = worker._replace(stage="note")
    if part not in state.parts or (state.final[n] is not None and bug is Bug.EXISTS_MEANS_RENAMED):
        yield ("name", i, "was renamed"), _with(state, i, noted)
    elif state.final[n] is None:
        got = _put(state.got, n, (*state.got[n], part.made))
        renamed = state._replace(parts=state.parts - {part}, final=_put(state.final, n, part.made), got=got)
        yield ("name", i, "renamed"), _with(renamed, i, noted)
        if state.troubles:
            yield ("name", i, "reply lost"), _with(_troubled(renamed), i, Worker())


def _next(view: Window, bug: Bug | None) -> int:
    """The file to be named, FILES when all are."""
    if bug is Bug.SIDECAR_FIRST and not view.delivered[-1]:
        return FILES - 1
    return view.delivered.index(False) if False in view.delivered else FILES


def _swept(state: State, view: Window, bug: Bug | None) -> frozenset[Part]:
    """What is left on the server: what is pinned, as far as the worker knows, and what comes of its followers."""
    pinned = () if bug is Bug.SWEEPS_PINNED else view.pinned
    upto = state.tokens if bug is Bug.SWEEPS_FOLLOWERS else view.token
    return frozenset(part for part in state.parts if part in pinned or part.token > upto)


def _holds(state: State, view: Window) -> bool:
    return (state.redis.number, state.redis.token) == (view.number, view.token)


def _advanced(
    state: State,
    i: int,
    worker: Worker,
    after: Window,
    *,
    durable: bool = False,
    fenced: bool = True,
    over: bool = False,
) -> State:
    """The script; with `durable`, and the barrier behind it."""
    if fenced and not _holds(state, after):
        return _with(state, i, Worker())
    ended = state.redis.state in {"ENDED", "CLOSED"} or state.redis.number > 1
    breach = state.breach
    if ended and after.state in {"SEALED", "UPLOADED"}:
        breach = "a window that was over is open again"
    redis = after._replace(token=state.redis.token, number=state.redis.number)
    written = state._replace(redis=redis, durable=redis if durable else state.durable, breach=breach)
    return _with(written, i, Worker() if over else worker._replace(view=after))


def _troubled(state: State) -> State:
    return state._replace(troubles=state.troubles - 1)


def _put(items: tuple[Item, ...], n: int, item: Item) -> tuple[Item, ...]:
    return (*items[:n], item, *items[n + 1 :])


def _with(state: State, i: int, worker: Worker) -> State:
    return state._replace(workers=_put(state.workers, i, worker))
