"""What the receivers got, read from their logs and folders. Knows nothing of the services."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

from deploy.embedded.accounts import Plan
from deploy.embedded.receivers import read_effects
from deploy.embedded.reconcile import Artefact, Request

#: How the document that lists a window's files is called.
DOCUMENT = ".manifest.json"


def requests(log: Path) -> Iterator[tuple[float, Request]]:
    """What the CRMs accepted, each with its time in seconds since the epoch."""
    for line in read_effects(log):
        yield (
            line["at"],
            Request(line["kind"], line["connection"], line["key"], str(line["referral_id"]), line["sha256"]),
        )


def files(log: Path, root: Path, plan: Plan) -> Iterator[Artefact]:
    """Files that got their final name. Raises ValueError where one is not what was renamed, or not what the
    document that came after it says.
    """
    listed: dict[tuple[str, str], str] = {}
    by_user = {planned.receiver: planned for planned in plan.connections if planned.kind == "sftp"}
    for line in read_effects(log):
        planned = by_user[line["user"]]
        content = (root / line["user"] / line["name"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != line["sha256"]:
            raise ValueError(f"{line['name']} is not what it was when it got its name")
        if line["name"].endswith(DOCUMENT):
            told = json.loads(content)["files"]
            wrong = [one["name"] for one in told if listed.get((line["user"], one["name"])) != one["sha256"]]
            if wrong:
                raise ValueError(f"{line['name']} lists {wrong[0]}, which had not come like that before")
            continue
        listed[line["user"], line["name"]] = line["sha256"]
        # CONNECTION-DAY-NUMBER, and -FILE where there are several.
        number = Path(line["name"]).stem.split("-")[-2 if planned.split else -1]
        window = f"{planned.name}-{number}"
        ids = _ids(content, planned.id_column, planned.delimiter)
        yield Artefact(planned.name, "", window, line["name"], line["sha256"], ids)


def mails(log: Path, store: Path, plan: Plan) -> Iterator[Artefact]:
    """Mails that were accepted, each for one recipient."""
    by_recipient = {box: p for p in plan.connections if p.kind == "email" for box in p.recipients}
    for line in read_effects(log):
        planned = by_recipient[line["recipient"]]
        ids = [
            i
            for name in line["files"]
            for i in _ids((store / name).read_bytes(), planned.id_column, planned.delimiter)
        ]
        # <WINDOW.RECIPIENT@DOMAIN>
        window = line["message_id"].strip("<>").partition("@")[0].rpartition(".")[0]
        yield Artefact(
            planned.name, line["recipient"], window, line["message_id"], line["sha256"], tuple(ids)
        )


def _ids(content: bytes, column: str, delimiter: str) -> tuple[str, ...]:
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    return tuple(row[column] for row in csv.DictReader(lines, delimiter=delimiter, strict=True))
