"""What cells share: servers, and the parent of their services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from consumer.kafka_out import KafkaOut
from consumer.service import Settings
from tests.faults.storm.cell import AT_ONCE, IN_FLIGHT, LANE, RETRIES, Cell
from tests.faults.storm.entry import Parent, parent
from tests.support.deployment import (
    Deployment,
    deployment,
    email_connection,
    http_connection,
    sftp_connection,
)
from tests.support.kafka import Kafka


@dataclass(frozen=True)
class Place:
    """`out` may be used from many threads."""

    running: Deployment
    parent: Parent
    out: KafkaOut

    def cell(self, name: str, *, pushed: bool) -> Cell:
        """One more, initialised; push alone, or files and mails."""
        place = self.running
        folder = place.folder / name
        environment = {
            **place.environment,
            "REFERRALS_PREFIX": f"{place.settings.prefix}{name}.",
            "REFERRALS_CONNECTIONS": str(folder / "connections"),
            "REFERRALS_KAFKA_CONFIG": json.dumps(AT_ONCE),
            "REFERRALS_LANE_DELIVERIES": str(LANE),
            "REFERRALS_MAX_IN_FLIGHT": str(IN_FLIGHT),
        }
        given = {
            key.removeprefix("REFERRALS_").lower(): value
            for key, value in environment.items()
            if key.startswith("REFERRALS_")
        }
        settings = Settings.model_validate({**given, "kafka_config": AT_ONCE})
        folder.mkdir(parents=True)
        running = replace(place, folder=folder, settings=settings, environment=environment, children={})
        made = Cell(name, running, self.parent, self.out, pushed)
        text = f"account: {name}\nconnections:\n"
        if pushed:
            forget = f"http://127.0.0.1:{place.crm.port}/{made.crm}/{{referral_id}}"
            text += http_connection(
                place.crm, made.crm, retry_seconds=RETRIES, removal=json.dumps({"url": forget})
            )
        else:
            text += sftp_connection(place.sftp, made.sftp)
            text += email_connection(made.mail, made.recipients, "resend")
        running.write(name, text)
        running.init()
        return made


@contextmanager
def standing_place(folder: Path, kafka: Kafka) -> Iterator[Place]:
    with (
        deployment(folder, kafka.bootstrap, f"{folder.name}.") as running,
        parent(folder / "services") as services,
    ):
        yield Place(running, services, KafkaOut(kafka.bootstrap, {}))
