"""What went wrong in a cell, in a few words: receivers' logs, receipts and dead letters against what was published.

Law: nothing said here comes from what services say of themselves alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from consumer.reading import read_all
from schemas.delivery import Outcome
from schemas.receipt import Receipt
from tests.faults.storm.cell import AT_ONCE, IN_FLIGHT, Cell
from tests.support import oracle
from tests.support.deployment import SFTP_USER


def judge(cell: Cell) -> set[str]:
    """What went wrong: none of it may."""
    wrong = _judge_push(cell) if cell.pushed else _judge_files(cell) | _judge_mails(cell)
    topic = cell.running.topics.dead_letters
    letters = {record.key for record in read_all(cell.running.settings.kafka, AT_ONCE, topic)}
    if len(letters) != cell.broken:
        wrong.add("dead letters")
    return wrong


def _judge_push(cell: Cell) -> set[str]:
    log = cell.running.crm.folder / "effects.jsonl"
    made = [*cell.wanted, *cell.taken_back]
    seen = oracle.crm(log, cell.crm, made)
    forgotten = Counter(one["referral_id"] for one in cell.effects("removal"))
    receipts = _receipts(cell, cell.crm)
    delivered = Counter(one.referral_id for one in receipts if one.outcome is Outcome.DELIVERED)
    told = {
        "lost": seen.lost,
        "duplicates": seen.duplicates,
        "mismatch": seen.mismatches or any(len(b) > 1 for b in _bodies(cell, log).values()),
        "repeats": seen.repeats > cell.deaths * IN_FLIGHT,
        # One that may have been under way when its worker died is taken back, too.
        "removals": Counter(cell.taken_back) - forgotten
        or forgotten - Counter([*cell.taken_back, *cell.left_out]),
        "receipts": delivered != Counter(made) + forgotten,
    }
    return {name for name, wrong in told.items() if wrong}


def _judge_files(cell: Cell) -> set[str]:
    folder = cell.running.sftp.folder / SFTP_USER
    seen = oracle.files(folder, cell.sftp, [*cell.wanted, *cell.twice])
    told = {
        "lost": seen.lost,
        "doubled file": seen.duplicates,
        "left behind": list(folder.glob(f".{cell.sftp}*.part")),
    }
    return {name for name, wrong in told.items() if wrong}


def _judge_mails(cell: Cell) -> set[str]:
    """Chosen to be sent again: at least once, the same each time, and what was repeated is counted."""
    log = cell.running.smtp.folder / "effects.jsonl"
    windows = [receipt for receipt in _receipts(cell, cell.mail) if receipt.rows]
    if not windows:
        return set()
    wrong, copies = set(), 0
    for recipient in cell.recipients:
        mails = oracle.mails(log, recipient)
        first = dict(reversed(mails))
        copies += len(mails) - len(first)
        got = Counter(one for ids in first.values() for one in ids)
        if got.keys() != set(cell.wanted):
            wrong.add("lost")
        if any(number > 1 for number in got.values()):
            wrong.add("duplicates")
        if any(ids != first[message_id] for message_id, ids in mails):
            wrong.add("mismatch")
    if copies > oracle.uncertain(windows):
        wrong.add("uncounted")
    return wrong


def _receipts(cell: Cell, connection: str) -> list[Receipt]:
    return [one for one in cell.running.receipts() if one.connection == connection]


def _bodies(cell: Cell, log: Any) -> Mapping[str, set[str]]:
    mine = {one["key"] for one in cell.effects("effect")}
    return {key: bodies for key, bodies in oracle.bodies_per_key(log).items() if key in mine}
