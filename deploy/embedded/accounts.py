"""Fifty advertisers for the demo: how each gets its referrals, and who is to get what.

`plan()` decides everything that needs no running server; `account_files.write` adds the addresses. The
plan is the demo's oracle: `wants` says which connections a referral must reach, from the same rules the
files state, without asking the code under test.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import asyncssh

from deploy.embedded.campaigns import campaigns

#: In order of size: `people.referrals` gives the first ones most.
ACCOUNTS = tuple(
    """
    brightbox papaya nordwind hellosun kettle-co maison-verte umbra-energy tuk-tuk-travel sakura-mart
    pine-and-pixel rio-fit atlas-auto lumen little-oak bluebird-bank quokka-club fjordline casa-clara
    zen-broadband paws-inc honest-tea stadtrad velvet-rope kiwi-solar el-faro mountain-gear poloneza
    green-fork cinema-royal daybreak north-star-cover book-barn tidepool oranje-vers la-ruche sugarloaf
    swiftlet petal-post copper-kettle gridwise wander-more cloudberry hikari-labs teatro-sur grandmas-garden
    miles-apart sea-salt zloty-save red-barn last-mile
    """.split()  # noqa: SIM905 - fifty quoted names, one a line, would hide the rest of this file
)

#: Places in ACCOUNTS. Most are pushed to a CRM; these are not, or not only.
ALL_KINDS = 0
SFTP_ONLY = (3, 11, 19, 27, 35)
#: The first of them gets several files a window.
SPLIT_ROWS = 100
EMAIL_ONLY = (4, 12, 20, 28, 36)
#: CRMs that answer 503 with Retry-After at first; the demo sets them right.
TROUBLED = (2, 9, 23, 31)
#: A CRM that reads requests and never answers.
HANGING = 6
#: Advertisers that asked for some of their campaigns only (where they have more than one).
CHOOSY = (8, 14, 22)

TROUBLE_MODE = "503:2"
TROUBLE_SECONDS = 15
CRM_TOKEN = "DEMO_CRM_TOKEN"

Kind = Literal["http", "sftp", "email"]
Behaviour = Literal["ok", "troubled", "hanging"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One connection. `receiver`: its path at the CRM, its SFTP user, or its first recipient."""

    account: str
    name: str
    kind: Kind
    receiver: str
    #: Campaign ids, or None for all of the account.
    campaigns: frozenset[str] | None = None
    behaviour: Behaviour = "ok"
    #: Where files hold the referral's id; in a CRM's JSON it is always `referral_id`.
    id_column: str = "referral_id"
    delimiter: str = ","
    #: The most rows of one file, beside which comes the document that lists them all. 0: one takes all.
    split: int = 0
    recipients: tuple[str, ...] = ()
    #: A mail that may have arrived is sent again; the others hold it.
    resend: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    connections: tuple[Planned, ...]
    #: For the services: what `${env:…}` in the files refers to.
    environment: Mapping[str, str] = field(repr=False)
    #: For the SFTP receiver's `--users`.
    sftp_users: Mapping[str, Mapping[str, str]] = field(repr=False)
    #: File name to private key, which `write` puts beside the connections.
    private_keys: Mapping[str, str] = field(repr=False)

    def wants(self, event: Mapping[str, Any]) -> list[Planned]:
        """The connections a referral must reach; none: it ends as UNROUTED."""
        return [
            planned
            for planned in self.connections
            if planned.account == event["account_id"]
            and (planned.campaigns is None or event["campaign_id"] in planned.campaigns)
        ]

    def crm_modes(self) -> dict[str, str]:
        """For the CRM receiver's `--mode`, at the demo's start."""
        modes = {"ok": "ok", "troubled": TROUBLE_MODE, "hanging": "hang"}
        return {p.receiver: modes[p.behaviour] for p in self.connections if p.behaviour != "ok"}

    def crm_recovery(self) -> dict[str, str]:
        """For `POST /_control` after TROUBLE_SECONDS: those CRMs work again, the hanging one does not."""
        return {p.receiver: "ok" for p in self.connections if p.behaviour == "troubled"}


def plan() -> Plan:
    """The fifty accounts. Only the secrets in it differ from call to call."""
    connections = [planned for place in range(len(ACCOUNTS)) for planned in _connections(place)]
    environment = {CRM_TOKEN: secrets.token_urlsafe(24)}
    users: dict[str, dict[str, str]] = {}
    private_keys: dict[str, str] = {}
    for planned in connections:
        if planned.kind != "sftp":
            continue
        if logs_in_with_key(planned):
            key = asyncssh.generate_private_key("ssh-ed25519")
            users[planned.receiver] = {"key": key.export_public_key().decode().strip()}
            private_keys[planned.receiver] = key.export_private_key().decode()
        else:
            password = secrets.token_urlsafe(24)
            users[planned.receiver] = {"password": password}
            environment[password_name(planned)] = password
    return Plan(tuple(connections), environment, users, private_keys)


def _connections(place: int) -> list[Planned]:
    account = ACCOUNTS[place]
    own = campaigns(account)
    chosen = frozenset({own[0].campaign_id}) if place in CHOOSY and len(own) > 1 else None
    behaviour: Behaviour = "troubled" if place in TROUBLED else "hanging" if place == HANGING else "ok"
    crm = Planned(account, f"{account}-crm", "http", f"/{account}-crm/", chosen, behaviour)
    sftp = Planned(
        account,
        f"{account}-sftp",
        "sftp",
        account,
        id_column="Lead ID" if place % 3 == 0 else "referral_id",
        delimiter=";" if place % 4 == 3 else ",",
        split=SPLIT_ROWS if place == SFTP_ONLY[0] else 0,
    )
    boxes = (f"leads@{account}.example", f"archive@{account}.example")[: 2 if place == EMAIL_ONLY[0] else 1]
    resend = place in EMAIL_ONLY[::2]
    mail = Planned(account, f"{account}-mail", "email", boxes[0], recipients=boxes, resend=resend)
    if place == ALL_KINDS:
        return [crm, sftp, mail]
    return [sftp] if place in SFTP_ONLY else [mail] if place in EMAIL_ONLY else [crm]


def place_of(planned: Planned) -> int:
    return ACCOUNTS.index(planned.account)


def logs_in_with_key(planned: Planned) -> bool:
    """One logs in with a key from a file, the others with a password from the environment."""
    return place_of(planned) == SFTP_ONLY[1]


def password_name(planned: Planned) -> str:
    return f"DEMO_SFTP_{planned.account.replace('-', '_').upper()}"
