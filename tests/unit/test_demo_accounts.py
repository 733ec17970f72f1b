"""The demo's fifty advertisers: valid files, every kind of trouble, and an oracle that agrees with the files."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from deploy.embedded.account_files import SHORT_RETRY, write
from deploy.embedded.accounts import ACCOUNTS, TROUBLE_SECONDS, Plan, plan
from deploy.embedded.people import referrals
from deploy.embedded.receivers.crm import parse_mode
from schemas.connection import ConnectionSet
from schemas.connection_file import assemble

HOST_KEY = "SHA256:" + "a" * 43
AT = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan()


@pytest.fixture(scope="module")
def written(planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "connections"
    write(planned, folder, 8080, 2222, HOST_KEY)
    return folder


@pytest.fixture(scope="module")
def loaded(written: Path) -> ConnectionSet:
    found = assemble((path.name, path.read_text("utf-8")) for path in sorted(written.glob("*.yaml")))
    assert isinstance(found, ConnectionSet), found
    return found


def test_fifty_accounts_with_valid_files(loaded: ConnectionSet, planned: Plan):
    assert len(loaded.accounts) == len(set(ACCOUNTS)) == 50
    assert set(loaded.by_name()) == {p.name for p in planned.connections}


def test_every_kind_and_one_account_with_all(planned: Plan):
    kinds = Counter(p.kind for p in planned.connections)
    assert kinds["http"] > 30
    assert kinds["sftp"] >= 5
    assert kinds["email"] >= 5
    assert Counter(p.account for p in planned.connections).most_common(1) == [(ACCOUNTS[0], 3)]


def test_trouble_is_as_the_receiver_understands_it(planned: Plan):
    modes = planned.crm_modes()
    assert sorted({parse_mode(mode).name for mode in modes.values()}) == ["hang", "status"]
    hanging = [p for p in planned.connections if p.behaviour == "hanging"]
    assert len(hanging) == 1
    assert hanging[0].receiver not in planned.crm_recovery()
    assert set(planned.crm_recovery()) == {
        p.receiver for p in planned.connections if p.behaviour == "troubled"
    }
    assert not any(
        a != b and a.startswith(b) for a in modes for b in {p.receiver for p in planned.connections}
    )


def test_retries_outlast_the_trouble_and_the_hanging_crm_outlasts_the_demo(
    loaded: ConnectionSet, planned: Plan
):
    by_name = loaded.by_name()
    for p in planned.connections:
        connection = by_name[p.name][1]
        if p.behaviour == "troubled":
            assert connection.retry_seconds == SHORT_RETRY
            assert connection.horizon.total_seconds() > 5 * TROUBLE_SECONDS
        if p.behaviour == "hanging":
            assert connection.horizon.total_seconds() > 3600


def test_the_oracle_agrees_with_the_files(loaded: ConnectionSet, planned: Plan):
    reached: Counter[str] = Counter()
    for event in referrals(3, 5000, ACCOUNTS, AT):
        expected = {p.name for p in planned.wants(event)}
        stated = {
            name
            for name, (account, connection) in loaded.by_name().items()
            if account == event["account_id"]
            and (connection.campaigns == "all" or event["campaign_id"] in connection.campaigns)
        }
        assert expected == stated
        reached.update(expected or {"unrouted"})
    assert set(reached) == set(loaded.by_name()) | {"unrouted"}
    assert reached["unrouted"] < 500


def test_every_secret_is_a_reference_that_leads_somewhere(written: Path, planned: Plan):
    for path in written.glob("*.yaml"):
        text = path.read_text("utf-8")
        assert not any(value in text for value in planned.environment.values())
        for entry in yaml.safe_load(text)["connections"]:
            if (reference := entry.get("password")) is not None:
                assert planned.environment[reference.removeprefix("${env:").removesuffix("}")]
                assert set(planned.sftp_users[entry["username"]]) == {"password"}
            if (reference := entry.get("private_key")) is not None:
                key = Path(reference.removeprefix("${file:").removesuffix("}"))
                assert key.stat().st_mode & 0o077 == 0
                assert "PRIVATE KEY" in key.read_text("utf-8")
                assert planned.sftp_users[entry["username"]]["key"].startswith("ssh-ed25519 ")
    assert len(planned.private_keys) == 1


def test_values_are_secret_in_the_plans_own_text(planned: Plan):
    assert not any(value in repr(planned) for value in planned.environment.values())


def test_a_column_is_given_for_the_referrals_id(loaded: ConnectionSet, planned: Plan):
    for p in planned.connections:
        sources = {rule.name: rule.source for rule in loaded.by_name()[p.name][1].fields}
        assert sources[p.id_column] == "referral_id"
        assert p.kind != "http" or p.id_column == "referral_id"


def test_mails_come_with_either_way_of_being_uncertain(loaded: ConnectionSet, planned: Plan):
    by_name = loaded.by_name()
    ways = Counter(by_name[p.name][1].on_uncertain for p in planned.connections if p.kind == "email")
    assert set(ways) == {"resend", "hold"}
    assert ways["resend"] == sum(p.resend for p in planned.connections)


def test_the_schedule_is_the_callers(planned: Plan, tmp_path: Path):
    write(planned, tmp_path / "connections", 8080, 2222, HOST_KEY, "* * * * *")
    entries = [
        entry
        for path in (tmp_path / "connections").glob("*.yaml")
        for entry in yaml.safe_load(path.read_text("utf-8"))["connections"]
        if entry["kind"] != "http"
    ]
    assert {entry["schedule"]["cron"] for entry in entries} == {"* * * * *"}
    assert len({entry["schedule"]["zone"] for entry in entries}) > 1
