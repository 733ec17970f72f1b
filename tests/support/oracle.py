"""The truth: what reached the receivers, against what was published, by id as multisets."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.reconcile.books import compare
from deploy.embedded.receivers import read_effects
from schemas.receipt import Receipt


@dataclass(frozen=True)
class Verdict:
    """`duplicates`: effects beyond the first of a delivery. `repeats`: the same request again, same key
    and bytes. `mismatches`: a key that came with another body.
    """

    expected: int
    delivered: int
    lost: int
    duplicates: int
    repeats: int = 0
    mismatches: int = 0


def crm(log: Path, connection: str, wanted: Iterable[str]) -> Verdict:
    """What the CRM receiver saw on one connection."""
    mine = [effect for effect in read_effects(log) if effect.get("connection") == connection]
    kinds = Counter(effect["kind"] for effect in mine)
    got = Counter(effect["referral_id"] for effect in mine if effect["kind"] == "effect")
    return _verdict(Counter(wanted), got, repeats=kinds["repeat"], mismatches=kinds["mismatch"])


def bodies_per_key(log: Path) -> Mapping[str, set[str]]:
    """Digests of the bodies each idempotency key came with."""
    found: dict[str, set[str]] = {}
    for effect in read_effects(log):
        if "key" in effect:
            found.setdefault(effect["key"], set()).add(effect["sha256"])
    return found


def files(folder: Path, connection: str, wanted: Iterable[str]) -> Verdict:
    """The rows of all files of a connection in the advertiser's folder."""
    got: Counter[str] = Counter()
    for path in sorted(folder.glob(f"{connection}-*.csv")):
        got.update(_ids(path.read_bytes()))
    return _verdict(Counter(wanted), got)


def mails(log: Path, recipient: str) -> list[tuple[str, list[str]]]:
    """(Message-ID, referral ids) of each mail the recipient got, in order of arrival."""
    found: list[tuple[str, list[str]]] = []
    for effect in read_effects(log):
        if effect["kind"] == "mail" and effect["recipient"] == recipient:
            ids = [i for file in effect["files"] for i in _ids(_stored(log, file))]
            found.append((effect["message_id"], ids))
    return found


def uncertain(windows: Iterable[Receipt]) -> int:
    """Mails of these windows whose end was told as unknown."""
    found = (re.search(r"unknown outcome: (\d+)", window.reason or "") for window in windows)
    return sum(int(one[1]) for one in found if one)


def mailed(log: Path, recipient: str, wanted: Iterable[str]) -> Verdict:
    got = Counter(i for _, ids in mails(log, recipient) for i in ids)
    return _verdict(Counter(wanted), got)


def _stored(log: Path, file: Any) -> bytes:
    path = Path(file)
    return (path if path.is_absolute() else log.parent / "mail" / path).read_bytes()


def _ids(content: bytes) -> list[str]:
    return [
        row["referral_id"] for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    ]


def _verdict(wanted: Counter[str], got: Counter[str], repeats: int = 0, mismatches: int = 0) -> Verdict:
    compared = compare(wanted, got)
    return Verdict(
        expected=wanted.total(),
        delivered=len(got.keys() & wanted.keys()),
        lost=compared.missing.total(),
        duplicates=compared.doubled.total() + compared.strays.total(),
        repeats=repeats,
        mismatches=mismatches,
    )
