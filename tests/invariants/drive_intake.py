"""The intake model's steps on take.lua and intake.lua."""

from consumer import intake
from consumer.intake import Accepted, Entry, Fenced, Fingerprint, LaneTarget, Moved, Taken, WindowTarget
from tests.invariants import model_intake as model
from tests.invariants.drive import Bench, Diverged, same
from tests.invariants.explore import Label
from tests.invariants.model_intake import LOG, State, verdicts_of

CONNECTION = "crm"


class IntakeDriver:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._epochs = {0: 0}  # the model's and Redis's

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("fsync",):
                self._bench.fsync()
            case ("crash",):
                self._bench.crash()
            case ("take" | "take again" | "restart", int(i)):
                self._take(i, before, after)
            case ("run late",):
                self._offer(before, before.orphan)
            case ("run" | "run, reply lost", int(i)):
                self._offer(before, before.workers[i].call)
            case ("send" | "send again", *_):
                pass  # on its way
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        self._compare(after)

    def _take(self, i: int, before: State, after: State) -> None:
        top = self._epochs[before.workers[i].top]
        reply = self._bench.call(intake.take(self._bench.keys, 0, f"worker {i}", top))
        taken = intake.taken(reply)
        assert isinstance(taken, Taken)
        same("next offset", taken.next_offset, after.workers[i].next)
        same("an epoch handed out before", taken.epoch in self._epochs.values(), False)
        self._epochs[after.redis.epoch] = taken.epoch

    def _offer(self, before: State, call: model.Call | None) -> None:
        assert call is not None
        reply = self._bench.call(
            intake.intake(
                self._bench.keys,
                0,
                epoch=self._epochs[call.epoch],
                prev=call.prev,
                next_offset=call.next,
                set_version=0,
                entries=[_entry(offset) for offset in range(call.prev, call.next)],
            )
        )
        _, expected, _ = model.carried_out(before, call, None, LOG)
        match intake.accepted(reply), expected:
            case Accepted(verdicts), model.Ok(letters):
                same("verdicts", verdicts, letters)
            case Fenced(epoch), model.Fenced(stored):
                same("fenced by", epoch, self._epochs[stored])
                same("Redis went back", epoch < self._epochs[call.epoch], stored < call.epoch)
            case Moved(next_offset), model.Moved(stored):
                same("moved to", next_offset, stored)
            case answer:
                raise Diverged(f"{call}: Redis answers {answer[0]}, the model {expected}")

    def _compare(self, after: State) -> None:
        head, redis = self._bench.head(), after.redis
        fields = tuple(head[name] for name in ("epoch", "next", "prev", "verdicts"))
        same(
            "head", fields, (str(self._epochs[redis.epoch]), str(redis.next), str(redis.prev), redis.verdicts)
        )
        prefix = self._bench.keys.prefix(0)
        rows = tuple(int(row) for row in self._bench.read("LRANGE", f"{prefix}open:{CONNECTION}", 0, -1))
        same("rows", rows, redis.rows)
        pending = sorted(
            int(offset) for offset in self._bench.read("HKEYS", f"{prefix}lane:{CONNECTION}:body")
        )
        same("pending", tuple(pending), redis.rows)
        letters = verdicts_of(LOG, 0, redis.next, ())
        notes = [_note(offset) for offset, letter in enumerate(letters) if letter != "A"]
        same("outbox", self._bench.read("LRANGE", f"{prefix}outbox", 0, -1), notes)


def _note(offset: int) -> bytes:
    return b"note on %d" % offset


def _entry(offset: int) -> Entry:
    record = LOG[offset]
    if record == "broken":
        return Entry(offset, None, _note(offset))
    row = b"%d" % offset
    targets = (LaneTarget(CONNECTION, row, 0), WindowTarget(CONNECTION, row))
    return Entry(offset, Fingerprint(ord(record), 1, 0), _note(offset), record, 0, targets)
