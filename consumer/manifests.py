"""What the compacted topic `referral-manifests` remembers when Redis does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consumer.kafka_out import KafkaOut, Out
from consumer.reading import read_all
from consumer.topics import Topics
from schemas import manifest
from schemas.codec import Undecodable
from schemas.manifest import Kind, Manifest


@dataclass(frozen=True, slots=True)
class Remembered:
    """The newest manifest of each key. `windows`: of each connection, its windows by number."""

    init: Manifest | None = None
    connections: Manifest | None = None
    windows: Mapping[str, Mapping[int, Manifest]] = field(default_factory=dict)

    def floor(self, partition: int) -> tuple[int, str]:
        """The highest offset a sealed window reached in `partition`, and that window's key.

        Seals are durable before they are told here, so Redis can stand below only if it went back.
        """
        reached = [
            (mark.to, window.key)
            for windows in self.windows.values()
            for window in windows.values()
            for mark in window.marks
            if mark.partition == partition
        ]
        return max(reached, default=(0, ""))


def remember(bootstrap: str, config: Mapping[str, Any], topics: Topics) -> Remembered:
    """Read the topic to its end. Raises StreamFailed."""
    newest: dict[str, Manifest] = {}
    for record in read_all(bootstrap, config, topics.manifests):
        if record.value is None:
            continue
        try:
            found = manifest.decode(record.value)
        except Undecodable:
            continue  # written by a newer version: it knows what we need not
        newest[found.key] = found
    init = newest.get(f"init:{topics.referrals}")
    windows: dict[str, dict[int, Manifest]] = {}
    for found in newest.values():
        # What an earlier deployment of the same name sealed bears no witness to this one.
        if found.kind is Kind.WINDOW and (init is None or found.at >= init.at):
            windows.setdefault(str(found.connection), {})[int(found.window or 0)] = found
    return Remembered(init, newest.get("connections"), windows)


def sets(bootstrap: str, config: Mapping[str, Any], topics: Topics, init: Manifest) -> list[Manifest]:
    """The sets of connections that were in force since `init`, oldest first. Raises StreamFailed."""
    found: dict[int, Manifest] = {}
    for record in read_all(bootstrap, config, topics.manifests):
        try:
            told = manifest.decode(record.value or b"")
        except Undecodable:
            continue
        if told.kind is Kind.CONNECTIONS and told.at >= init.at:
            found[int(told.set_version or 0)] = told
    return [found[version] for version in sorted(found)]


def tell(out: KafkaOut, topics: Topics, statement: Manifest) -> None:
    """Produce a manifest and wait for its acknowledgement. Raises NotAcknowledged."""
    keys = [key for key in (statement.kept_as, statement.key) if key is not None]
    out.send([Out(topics.manifests, key, statement.encode()) for key in keys])
