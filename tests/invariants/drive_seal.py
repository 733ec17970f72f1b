"""The seal model's steps on intake.lua, seal.lua and drop.lua. What only the flush workers do stays in the model."""

import hashlib

from batcher.windows import DROP, SEAL
from consumer import intake
from consumer.intake import Accepted, Entry, Fingerprint, Taken, WindowTarget
from consumer.store import Call, Script, text
from tests.invariants.drive import Bench, same
from tests.invariants.explore import Label
from tests.invariants.model_seal import PARTITIONS, WINDOWS, Mark, Rows, State, sealed

CONNECTION = "file"


class SealDriver:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._epochs = []
        for p in range(PARTITIONS):
            taken = intake.taken(bench.call(intake.take(bench.keys, p, "worker", 0)))
            assert isinstance(taken, Taken)
            self._epochs.append(taken.epoch)
        bench.fsync()

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("fsync" | "claim" | "barrier", *_):
                self._bench.fsync()
            case ("crash",):
                self._bench.crash()
            case ("intake", int(p)):
                self._intake(p, before.redis.partitions[p].next)
            case ("seal", int(i), int(p)):
                self._seal(p, before.workers[i].window, before)
            case ("end", int(i)):
                for p in range(PARTITIONS):
                    self._window_call(DROP, p, before.workers[i].window)
            case ("join" | "die" | "too late" | "manifest" | "send", int(_)):
                pass  # the flush worker's own affair
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        for p in range(PARTITIONS):
            self._compare(p, after)

    def _window_call(self, script: Script, p: int, window: int) -> list[bytes]:
        keys = self._bench.keys
        return self._bench.call(Call(script, keys.head(p), (keys.prefix(p), CONNECTION, window)))

    def _intake(self, p: int, offset: int) -> None:
        entry = Entry(
            offset, Fingerprint(offset, 1, 0), b"", f"{offset}", 0, (WindowTarget(CONNECTION, _row(offset)),)
        )
        call = intake.intake(
            self._bench.keys,
            p,
            epoch=self._epochs[p],
            prev=offset,
            next_offset=offset + 1,
            set_version=0,
            entries=[entry],
        )
        same("intake", intake.accepted(self._bench.call(call)), Accepted("A", 0))

    def _seal(self, p: int, window: int, before: State) -> None:
        partition, mark = sealed(before.redis.partitions[p], window)
        status, *rest = (text(item) for item in self._window_call(SEAL, p, window))
        if mark is None:
            same("seal of a window that is over", (status, rest), ("GONE", [str(partition.last)]))
        else:
            rows = partition.sealed[window - 1]
            expected = [str(window), str(mark.start), str(mark.to), str(len(rows)), _digest(rows), "0"]
            same("seal", (status, rest), ("OK", expected))

    def _compare(self, p: int, after: State) -> None:
        partition, prefix = after.redis.partitions[p], self._bench.keys.prefix(p)
        same("next", self._bench.head(p)["next"], str(partition.next))
        same("open", self._rows(f"{prefix}open:{CONNECTION}"), partition.open)
        last, to = self._bench.read("HMGET", f"{prefix}seals:{CONNECTION}", "last", "to")
        same("last window, and its end", (int(last or 0), int(to or 0)), (partition.last, partition.to))
        for n in range(WINDOWS):
            same("sealed", self._rows(f"{prefix}sealed:{CONNECTION}:{n + 1}"), partition.sealed[n])
            mark = self._bench.read("HGET", f"{prefix}seals:{CONNECTION}", f"mark:{n + 1}")
            same("mark", mark and Mark(*map(int, mark.split()[:2])), partition.marks[n])

    def _rows(self, key: str) -> Rows:
        return tuple(int(row) for row in self._bench.read("LRANGE", key, 0, -1))


def _row(offset: int) -> bytes:
    return b"%d" % offset


def _digest(rows: Rows) -> str:
    """Each row's digest covers the one before: order and content in 40 characters."""
    digest = ""
    for row in rows:
        digest = hashlib.sha1(digest.encode() + _row(row)).hexdigest()
    return digest
