"""The verdict: what reached the receivers against what was published, and what the services say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from console.reconcile.books import compare
from console.reconcile.run import reconcile
from deploy.embedded.receivers import read_effects
from schemas.delivery import Outcome
from schemas.receipt import Receipt
from tests.faults.storm.house import FLAKY, HOLD, IGNORES, RESEND, SFTP, House
from tests.support import oracle
from tests.support.deployment import SFTP_USER


@dataclass
class Verdict:
    """`lost` and `duplicates` over all receivers; `repeats`: requests that came again under their old key,
    where the receiver was not told to cause them; `troubles`: a line for each thing that is not as promised.
    """

    lost: int = 0
    duplicates: int = 0
    repeats: int = 0
    mismatches: int = 0
    troubles: list[str] = field(default_factory=list)

    def count(self, where: str, lost: int, duplicates: int) -> None:
        self.lost += lost
        self.duplicates += duplicates
        if lost or duplicates:
            self.troubles.append(f"{where}: {lost} lost, {duplicates} doubled")


def judge(house: House, wanted: Mapping[str, Sequence[str]], bound: int) -> Verdict:
    """Everything has stopped, and nothing is under way."""
    found = Verdict()
    _crm(house, wanted, found)
    for account in SFTP:
        folder = house.running.sftp.folder / SFTP_USER
        verdict = oracle.files(folder, f"{account}-sftp", wanted[account])
        found.count(f"{account}-sftp", verdict.lost, verdict.duplicates)
        if parts := list(folder.glob(".*.part")):
            found.troubles.append(f"{len(parts)} parts left on the SFTP server")
    receipts = house.running.receipts()
    _mails(house, wanted, receipts, found)
    _receipts(wanted, receipts, found)
    if found.repeats > bound:
        found.troubles.append(f"{found.repeats} pushes were repeated, more than {bound}")
    return found


def _crm(house: House, wanted: Mapping[str, Sequence[str]], found: Verdict) -> None:
    got: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    bodies: dict[str, str] = {}
    for effect in read_effects(house.running.crm.folder / "effects.jsonl"):
        name = effect["connection"]
        kinds.setdefault(name, Counter())[effect["kind"]] += 1
        if effect["kind"] == "effect":
            got.setdefault(name, Counter())[effect["referral_id"]] += 1
        if bodies.setdefault(effect["key"], effect["sha256"]) != effect["sha256"]:
            found.mismatches += 1
    if found.mismatches:
        found.troubles.append(f"{found.mismatches} requests came with another body under their key")
    for account, ids in wanted.items():
        name = f"{account}-crm"
        compared = compare(Counter(ids), got.get(name, Counter()))
        doubled = compared.doubled.total()
        if account == IGNORES:
            found.repeats += doubled
            doubled = 0
        elif account != FLAKY:
            found.repeats += kinds.get(name, Counter())["repeat"]
        found.count(name, compared.missing.total(), doubled + compared.strays.total())


def _mails(
    house: House, wanted: Mapping[str, Sequence[str]], receipts: Sequence[Receipt], found: Verdict
) -> None:
    """At most once, or at least once: what is otherwise must be a window whose end was told as unknown."""
    log = house.running.smtp.folder / "effects.jsonl"
    for account in (HOLD, RESEND):
        windows = [receipt for receipt in receipts if receipt.connection == f"{account}-mail"]
        uncertain = oracle.uncertain(windows)
        for recipient in (f"a@{account}.example", f"b@{account}.example"):
            mails = oracle.mails(log, recipient)
            arrived = {name[1:].split("@")[0].rsplit(".", 1)[0] for name, _ in mails}
            verdict = oracle.mailed(log, recipient, wanted[account])
            again = len(mails) - len({name for name, _ in mails})
            if account == HOLD:
                missing = {one.subject_id for one in windows if one.rows} - arrived
                known = missing <= {one.subject_id for one in windows if one.outcome is Outcome.UNCERTAIN}
                found.count(recipient, 0 if known else verdict.lost, verdict.duplicates)
            else:
                found.count(recipient, verdict.lost, 0 if again <= uncertain else verdict.duplicates)


def _receipts(wanted: Mapping[str, Sequence[str]], receipts: Sequence[Receipt], found: Verdict) -> None:
    pushed = [one for one in receipts if one.connection and one.connection.endswith("-crm")]
    ended = Counter(one.outcome for one in pushed)
    every = sum(len(ids) for ids in wanted.values())
    if ended != {Outcome.DELIVERED: every}:
        told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(ended.items()))
        found.troubles.append(f"receipts of pushes: {told}; {every} DELIVERED were to be")


def books(house: House, begun: datetime, records: int) -> list[str]:
    """What `referrals reconcile` says of the storm, as an operator would ask it."""
    hour = timedelta(hours=1)
    times = ((begun - hour).isoformat(), (datetime.now(UTC) + hour).isoformat())
    found = reconcile(house.running.settings, times, None).books
    troubles = [f"reconcile: {difference}" for difference in found.differences[:10]]
    filed = sum(number for (place, _), number in found.counts.items() if not place.connection)
    if filed != records:
        troubles.append(f"reconcile: {filed} records filed of {records}")
    return troubles
