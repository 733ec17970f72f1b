"""How a connection's server is reached: its secrets resolved, its address checked, logged in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import assert_never

from batcher.channels import Hold, Retry, ftps, sftp
from batcher.channels.mail import Relay
from batcher.channels.mime import address
from batcher.channels.upload import Session
from batcher.pack import members
from consumer.addresses import Policy
from consumer.secrets import Secrets
from consumer.service import Settings, Stop
from schemas.connection import FtpsConnection, SftpConnection, UploadConnection

#: The members that are references, by kind.
_SECRETS = {"sftp": ("password", "private_key", "passphrase"), "ftps": ("password", "ca")}
#: Seconds for one exchange with the mail relay.
SMTP_TIMEOUT_S = 60.0
#: The sender's domain is part of every Message-ID, which must fit one line.
MAX_DOMAIN = 50


def connected(
    connection: UploadConnection, secrets: Secrets, policy: Policy, monotonic: float
) -> AbstractContextManager[Session | Retry | Hold]:
    """One connection to its server, for one transfer. `monotonic`: seconds, for the age of secrets."""
    found = members(secrets, connection, _SECRETS[connection.kind], monotonic)
    if isinstance(found, Hold):
        return nullcontext(found)
    match connection:
        case SftpConnection():
            return sftp.connect(_sftp(connection, found, policy))
        case FtpsConnection():
            return ftps.connect(_ftps(connection, found, policy))
        case _:
            assert_never(connection)


def relay(settings: Settings) -> Relay:
    """The mail relay, which is ours. Raises Stop."""
    host, colon, port = settings.smtp.rpartition(":")
    if not colon or not port.isdecimal():
        raise Stop("REFERRALS_SMTP is host:port of the mail relay, such as mail.example.com:587")
    try:
        fits = len(address(settings.mail_from).domain) <= MAX_DOMAIN
    except ValueError:
        fits = False
    if not fits:
        raise Stop(
            "REFERRALS_MAIL_FROM is one plain address such as referrals@example.com, "
            f"its domain of at most {MAX_DOMAIN} characters"
        )
    try:
        return Relay(
            host=host,
            port=int(port),
            timeout=SMTP_TIMEOUT_S,
            starttls=settings.smtp_starttls,
            username=settings.smtp_username,
            password=settings.smtp_password,
        )
    except ValueError as error:
        raise Stop(f"REFERRALS_SMTP: {error}") from error


def _sftp(connection: SftpConnection, found: dict[str, str | None], policy: Policy) -> sftp.Target:
    return sftp.Target(
        host=connection.host,
        port=connection.port,
        username=connection.username,
        host_keys=connection.host_keys,
        directory=connection.directory,
        timeout=connection.timeout,
        policy=policy,
        **found,
    )


def _ftps(connection: FtpsConnection, found: dict[str, str | None], policy: Policy) -> ftps.Target:
    return ftps.Target(
        host=connection.host,
        port=connection.port,
        username=connection.username,
        directory=connection.directory,
        timeout=connection.timeout,
        password=found["password"] or "",
        implicit=connection.tls == "implicit",
        certificates=tuple(pin.replace(":", "").lower() for pin in connection.certificates),
        ca=found["ca"],
        policy=policy,
    )
