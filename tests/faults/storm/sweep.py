"""One crash point after another in one cell: what makes it be reached, the death, and the life after it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from typing import Any

from consumer.keys import Role
from tests.faults.storm.cell import LANE, WITHIN, Cell
from tests.faults.storm.entry import Service
from tests.faults.storm.judged import judge
from tests.faults.storm.points import POINTS, Point
from tests.support.deployment import PARTITIONS


def sweep(cell: Cell, points: Sequence[str]) -> set[str]:
    """Every point reached, each recovered from before the next. What went wrong: where a point was not reached
    or not recovered from, that alone.
    """
    for name in points:
        point = POINTS[name]
        try:
            {"push": _push, "collect": _collect, "flush": _flush}[point.service](cell, point)
        except AssertionError as error:
            return {f"{name}: {error}"}
    if not cell.pushed:
        for connection in (cell.sftp, cell.mail):
            flushed(cell, connection, {})
    return judge(cell)


def die(cell: Cell, service: Service, point: Point) -> None:
    code = service.wait(WITHIN)
    assert code == -signal.SIGKILL, f"{point.name} was not reached: {code}, {service.last_line()}"
    cell.deaths += point.service == "push"


def _push(cell: Cell, point: Point) -> None:
    if point.needs == "a removal":
        # Of what was delivered: so that there is something to take back.
        ids = cell.publish(2)
        _recovered(cell)
        cell.withdraw(ids[:1])
    elif point.needs in {"a removal of what waits", "a receiver that refuses"}:
        cell.answers("503")
    service = _reader(cell, point, 1)
    if point.needs == "a removal of what waits":
        ids = cell.publish(3)
        cell.wait(lambda: cell.running.pending() == len(ids) + 1, "they wait")
        cell.withdraw(ids[:1])
    die(cell, service, point)
    cell.answers("ok")
    _recovered(cell)


def _recovered(cell: Cell) -> None:
    """A life without a crash point ends whatever is there to end."""
    service = cell.start("push")
    cell.wait_pushed()
    cell.stop(service)


def _collect(cell: Cell, point: Point) -> None:
    if point.needs == "a removal":
        cell.withdraw(cell.publish(2)[:1])
    die(cell, _reader(cell, point, 3), point)
    service = cell.start("collect")
    cell.wait_taken(Role.BATCH)
    cell.stop(service)


def _reader(cell: Cell, point: Point, count: int) -> Service:
    """A reader that is to die at the point, and what it reads."""
    if point.needs == "another set of connections in the folder":
        cell.connect_another()
    elif point.needs == "a record nobody can read":
        cell.publish_broken()
    cell.publish(4 * LANE * PARTITIONS if point.needs == "more than a lane takes" else count)
    service = cell.start(point.service, point=point.name)
    if point.needs == "an orderly stop":
        cell.wait(lambda: service.output().count("partition.taken") == PARTITIONS, "it reads")
        service.send(signal.SIGTERM)
    return service


def _flush(cell: Cell, point: Point) -> None:
    """What collect took is flushed; push plays no part."""
    connection = cell.mail if point.needs == "a mail" else cell.sftp
    if point.needs == "another set of connections in the folder":
        cell.connect_another()
    if point.needs == "a window sent once more":
        flushed(cell, connection, {})
        ids = cell.publish(3)
        number = flushed(cell, connection, {})
        cell.send_again(connection, number)
        cell.twice += ids
    else:
        cell.publish(3)
        cell.wait_taken(Role.BATCH)
        cell.ask(connection)
    die(cell, cell.start("flush", point=point.name), point)
    service = cell.start("flush")
    cell.wait_flushed(connection)
    cell.stop(service)


def flushed(cell: Cell, connection: str, how: Mapping[str, Any]) -> int:
    """Everything collected has left; the number of the window. `how`: as for `Cell.start`."""
    cell.wait_taken(Role.BATCH)
    cell.ask(connection)
    service = cell.start("flush", **how)
    cell.wait_flushed(connection)
    cell.stop(service)
    return cell.window(connection)
