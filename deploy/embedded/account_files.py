"""The demo's connection files, as the advertisers of `accounts.py` would have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deploy.embedded.accounts import (
    ACCOUNTS,
    CRM_TOKEN,
    Plan,
    Planned,
    logs_in_with_key,
    password_name,
    place_of,
)

#: Patient enough for TROUBLE_SECONDS on a slow machine, quick enough for a demo of three minutes.
SHORT_RETRY = (1, 1, 2, 2, 2, 3, 3, 5, 5, 5, 5, 10, 10, 10, 20, 20, 30, 30, 60)
#: Long before the next window of its own the demo has ended; it flushes by command.
CRON = "30 3 * * *"
ZONES = ("Australia/Sydney", "Europe/Berlin", "America/New_York", "UTC", "Asia/Tokyo")


def write(
    plan: Plan, folder: Path, crm_port: int, sftp_port: int, sftp_host_key: str, cron: str = CRON
) -> None:
    """One YAML file per account in `folder`, private keys in `folder`'s sibling `secrets`.

    `sftp_host_key`: SHA256:… as the SFTP receiver prints it when it is ready. `cron`: when the file
    connections' windows are due, each in a zone of its own.
    """
    keys = folder.with_name("secrets").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    keys.mkdir(mode=0o700, exist_ok=True)
    for name, key in plan.private_keys.items():
        (keys / name).touch(0o600)
        (keys / name).write_text(key, "utf-8")
    for account in ACCOUNTS:
        entries = [
            {**_common(planned), **_target(planned, crm_port, sftp_port, sftp_host_key, keys, cron)}
            for planned in plan.connections
            if planned.account == account
        ]
        mailed = [box for one in plan.connections if one.account == account for box in one.recipients]
        approved = {"approved_recipients": sorted(set(mailed))} if mailed else {}
        text = yaml.safe_dump(
            {"account": account, **approved, "connections": entries}, sort_keys=False, allow_unicode=True
        )
        (folder / f"{account}.yaml").write_text(text, "utf-8")


def _common(planned: Planned) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": planned.name, "kind": planned.kind}
    if planned.campaigns is not None:
        entry["campaigns"] = sorted(planned.campaigns)
    return {**entry, "fields": _fields(planned)}


def _fields(planned: Planned) -> list[str | dict[str, Any]]:
    """A modest CRM's fields, a file's, or everything an enterprise wants; values as each spells them."""
    by_id: str | dict[str, Any] = "referral_id"
    if planned.id_column != "referral_id":
        by_id = {"name": planned.id_column, "from": "referral_id"}
    names = {
        "M": "Male",
        "F": "Female",
        "male": "Male",
        "female": "Female",
        "männlich": "Male",
        "weiblich": "Female",
    }
    sex = {"name": "sex", "from": "gender", "values": names, "empty": "Unknown"}
    person: list[str | dict[str, Any]] = [
        by_id,
        "email",
        "first_name",
        "last_name",
        sex,
        "postal_code",
        "country",
    ]
    match place_of(planned) % 4:
        case 0:
            return [*person, {"name": "origin", "constant": "marketplace"}, "phone_e164", "opted_in_at"]
        case 1:
            return [
                *person,
                "phone_raw",
                "birth_date",
                {"name": "home_owner", "from": "answers.home", "empty": "n/a"},
            ]
        case 2:
            tier = {
                "name": "tier",
                "from": "attributes.loyalty_tier",
                "rules": [{"contains": "old", "value": "VIP"}],
            }
            return [*person, tier, "bid_price", "currency", "campaign_name", "consent.text_version"]
        case _:
            return [
                *person,
                "title",
                "address1",
                "address2",
                "city",
                "state",
                "language",
                "age",
                "ad_response",
            ]


def _target(
    planned: Planned, crm_port: int, sftp_port: int, host_key: str, keys: Path, cron: str
) -> dict[str, Any]:
    place = place_of(planned)
    schedule = {"cron": cron, "zone": ZONES[place % len(ZONES)]}
    match planned.kind:
        case "http":
            return _crm(planned, place, crm_port)
        case "sftp":
            secret = {"password": f"${{env:{password_name(planned)}}}"}
            if logs_in_with_key(planned):
                secret = {"private_key": f"${{file:{keys / planned.receiver}}}"}
            server = {"host": "127.0.0.1", "port": sftp_port, "username": planned.receiver, **secret}
            written: dict[str, Any] = {"delimiter": planned.delimiter, "bom": planned.delimiter == ";"}
            if planned.split:
                written |= {"split": {"rows": planned.split}, "sidecar": True}
            return {**server, "host_keys": [host_key], "schedule": schedule, "file": written}
        case "email":
            uncertain = "resend" if planned.resend else "hold"
            return {"recipients": list(planned.recipients), "on_uncertain": uncertain, "schedule": schedule}


def _crm(planned: Planned, place: int, port: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"url": f"http://127.0.0.1:{port}{planned.receiver}leads"}
    if place % 5 == 0:
        entry["headers"] = {"Authorization": f"Bearer ${{env:{CRM_TOKEN}}}"}
    if place % 7 == 1:
        entry |= {"method": "PUT", "idempotency": {"quoted": False}}
    if planned.behaviour == "troubled":
        entry["retry_seconds"] = list(SHORT_RETRY)
    if planned.behaviour == "hanging":
        # The usual three days of retries: it ends the demo as pending, never as exhausted.
        entry |= {"timeout": 5.0, "max_in_flight": 8}
    return entry
