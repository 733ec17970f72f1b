"""What a service tells when it puts its connections folder in force."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from console.begin import begin
from consumer import connection_sets, folder, manifests
from consumer.keys import Role
from consumer.run import Ground, adopt_files
from consumer.service import Settings, Stop
from tests.support.kafka import Kafka
from tests.support.valkey import Valkey

#: Connections, in so large accounts.
MANY, EACH = 2_000, 100

MAILS = """\
account: %s
connections:
  - name: %s-daily
    kind: email
    recipients: [leads@%s.example]
    schedule: {cron: "0 8 * * *"}
    fields: [email]
"""


@pytest.fixture
def ground(kafka: Kafka, valkey: Valkey, topic_prefix: str, tmp_path: Path) -> Ground:
    settings = Settings(
        kafka=kafka.bootstrap, redis=valkey.url, prefix=topic_prefix, connections=str(tmp_path)
    )
    begin(settings, "earliest", 1, 1)
    return Ground(settings, Role.BATCH)


def write(ground: Ground, account: str, text: str = MAILS) -> None:
    path = Path(str(ground.settings.connections)) / f"{account}.yaml"
    path.write_text(text.replace("%s", account), "utf-8")


def told(ground: Ground) -> list[tuple[str, str]]:
    """The log lines of one adoption: the event, and how it goes on."""
    with capture_logs() as lines:
        adopt_files(ground)
    return [(line["event"], str(line.get("reason", line.get("warnings")))) for line in lines]


def test_warnings_are_logged_when_a_folder_comes_in_force_and_never_again(ground: Ground) -> None:
    write(ground, "acme")
    (applied, warning) = told(ground)
    assert applied == ("connections.applied", "1")
    assert warning[0] == "connections.warning"
    assert warning[1].startswith("acme.yaml:1: approved_recipients: is missing")
    assert told(ground) == []

    for number in range(folder.MAX_WARNINGS + 5):
        write(ground, f"more-{number}")
    events = [event for event, _ in told(ground)]
    assert events == ["connections.applied", *["connections.warning"] * folder.MAX_WARNINGS]


def test_a_recipient_nobody_approved_leaves_the_set_in_force_as_it_is(ground: Ground) -> None:
    write(ground, "acme")
    adopt_files(ground)
    version = connection_sets.version(ground.store, ground.topics)
    approved = MAILS.replace("connections:", 'approved_recipients: ["@other.example"]\nconnections:')
    write(ground, "acme", approved)
    with pytest.raises(Stop) as refused:
        adopt_files(ground)
    assert str(refused.value) == (
        "acme.yaml:6: connections[0].recipients[0]: recipient 1 of acme-daily is not among the account's "
        "approved_recipients; add it there, or leave it out here"
    )
    assert connection_sets.version(ground.store, ground.topics) == version


def test_a_set_of_thousands_of_connections_is_put_in_force_and_remembered(ground: Ground) -> None:
    """Two thousand are 3.6 MB of definition: more than Kafka takes of one record, unless it is compressed."""
    fields = "[referral_id, email, first_name, last_name, postal_code, country, phone_e164, opted_in_at]"
    for account in range(MANY // EACH):
        lines = [f"account: a{account}", "connections:"]
        for number in range(EACH):
            lines += [
                f"  - name: a{account}-{number}", "    kind: http", f"    url: https://a{account}.example/{number}",
                f"    fields: {fields}",
            ]  # fmt: skip
        write(ground, f"a{account}", "\n".join(lines))
    adopt_files(ground)
    found = connection_sets.current(ground.store, ground.topics)
    assert len(found.set.by_name()) == MANY
    settings = ground.settings
    remembered = manifests.remember(settings.kafka, settings.kafka_config, ground.topics).connections
    assert remembered is not None
    assert remembered.definition == found.set.definition()
    assert len(found.set.definition()) > 3_000_000
