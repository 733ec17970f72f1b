"""What happens to Valkey itself: killed, its file cut or not growing, its memory used up."""

from __future__ import annotations

import re
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from tests.faults.storm.schedule import Fault, Kind

if TYPE_CHECKING:
    from tests.faults.storm.storm import Storm

#: Behind a barrier, so that no power cut takes it: the marks and states of windows, the sets of connections.
BEHIND_BARRIER = re.compile(rb":window:|:seals:|:sealed|layout|connections|definitions|asked|given-up")
END = b"\r\nEXEC\r\n"
#: Of a delivery that ended, its commands take more than this in the file.
BYTES_PER_END = 100
#: Room that the file still has before it cannot grow: reached within a second.
ROOM_BYTES = 64 * 1024
#: Valkey writes a few hundred kilobytes a second here.
FULL_WITHIN_S = 15.0


def do(storm: Storm, fault: Fault) -> None:
    match fault.kind:
        case Kind.REDIS:
            restart(storm)
        case Kind.TAIL:
            restart(storm, cut=fault.number)
        case Kind.MEMORY:
            _fill(storm, fault.seconds)
        case Kind.DISK:
            _disk_full(storm)


def restart(storm: Storm, cut: int = 0) -> None:
    valkey = storm.house.running.valkey
    valkey.kill()
    storm.kills["valkey"] += 1
    if cut:
        path = newest_file(storm.house.folder / "valkey" / "data")
        bytes_cut = to_cut(path, cut)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - bytes_cut)
        # A script whose end is cut is dropped whole.
        storm.bound += bytes_cut // BYTES_PER_END
        storm.disturb(2)
        storm.done["bytes cut off Redis's file"] += bytes_cut
    valkey.restart()


def newest_file(data: Path) -> Path:
    """The part of the append-only file that is being written."""
    found = (data / "appendonlydir").glob("*.incr.aof")
    return max(found, key=lambda path: int(path.name.split(".")[-3]))


def to_cut(path: Path, wanted: int) -> int:
    """So many bytes of `wanted` lie behind the last command that was behind a barrier."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - wanted))
        tail = file.read()
    kept = [match.start() for match in BEHIND_BARRIER.finditer(tail)]
    if not kept:
        return len(tail)
    end = tail.find(END, kept[-1])
    return 0 if end < 0 else len(tail) - end - len(END)


def _fill(storm: Storm, seconds: float) -> None:
    """Every write but those that make room is refused."""
    with storm.house.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory", used // 2)

    def free() -> None:
        with suppress(redis.RedisError), storm.house.client() as client:
            client.config_set("maxmemory", 0)

    storm.later(seconds, free)


def _disk_full(storm: Storm) -> None:
    """The file cannot grow: Valkey ends, as it must with `appendfsync always`; then there is room again."""
    running = storm.house.running
    size = newest_file(storm.house.folder / "valkey" / "data").stat().st_size
    limit = size + ROOM_BYTES
    resource.prlimit(running.valkey.child.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    deadline = time.monotonic() + FULL_WITHIN_S
    while running.valkey.child.exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if running.valkey.child.exit_code is None:
        # Nothing was written meanwhile, so nothing was refused: an ordinary kill.
        storm.done["full disks nobody met"] += 1
        running.valkey.kill()
    storm.kills["valkey"] += 1
    running.valkey.restart()
