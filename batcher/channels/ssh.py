"""Logging in over SSH. With `sftp_client` the owner of paramiko: its errors end here, as `Trouble`.

The law: only pinned host keys, only the credentials given, and every wait is bounded; paramiko alone can
wait for ever for a subsystem to start and in a blocked send.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import paramiko

from batcher.channels import Hold, Retry
from batcher.channels.dial import PUBLIC_ONLY, dial
from batcher.channels.line import Trouble, broken, cut_after, late
from batcher.channels.upload import path_in
from consumer.addresses import Policy

#: Seconds. Under the shortest idle limits of servers and firewalls, for a file that is slow to render.
KEEPALIVE = 15
#: A server shows one host key of each type; the pinned one need not be of the type it prefers.
HOST_KEY_TYPES = 5

_KEY_TYPES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)

# What it has to say comes back in our reasons; its own lines hold user names and tracebacks.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Target:
    """Where files go. Secrets are resolved; `host_keys` are `SHA256:…`; `timeout` is seconds per step.

    `policy`: the addresses that `host` may stand for.
    """

    host: str
    port: int
    username: str
    host_keys: tuple[str, ...]
    directory: str
    timeout: float
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    policy: Policy = PUBLIC_ONLY

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"

    def path(self, name: str) -> str:
        return path_in(self.directory, name)


@dataclass(frozen=True, slots=True)
class Login:
    """`expired` is set when the whole transfer took too long and was cut."""

    target: Target
    channel: paramiko.Channel
    expired: threading.Event


def log_in(target: Target, within: float, stack: ExitStack) -> Login:
    """A channel to the SFTP subsystem; `stack` closes it. Cut after `within` seconds. Raises Trouble."""
    key = _private_key(target)
    unpinned: list[str] = []
    shown: list[str] = []
    for _ in range(HOST_KEY_TYPES):
        try:
            return _dial(target, key, within, stack, unpinned)
        except _UnpinnedError as error:
            unpinned += error.algorithms
            shown.append(error.fingerprint)
        except Trouble as trouble:
            if not shown or not isinstance(trouble.__cause__, paramiko.ssh_exception.IncompatiblePeer):
                raise
            break  # it has no further type of host key to show
    raise Trouble(
        Hold(
            f"{target.where} shows the host key {' or '.join(shown)}, which is not among host_keys: "
            "ask the advertiser whether the key was changed, and add it only if so"
        )
    )


def _dial(
    target: Target, key: paramiko.PKey | None, within: float, stack: ExitStack, unpinned: list[str]
) -> Login:
    limit = target.timeout
    with explained(target, "connecting"):
        line = dial(target.host, target.port, limit, target.policy)
        stack.callback(line.close)
        # Without it every unpipelined request waits for the peer's delayed acknowledgement.
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    expired = stack.enter_context(cut_after(within, partial(line.shutdown, socket.SHUT_RDWR)))
    ssh = paramiko.SSHClient()
    stack.callback(ssh.close)
    ssh.set_missing_host_key_policy(_Pinned(target.host_keys))
    with explained(target, "logging in", expired):
        ssh.connect(
            target.host,
            target.port,
            target.username,
            target.password,
            sock=line,
            pkey=key,
            look_for_keys=False,
            allow_agent=False,
            timeout=limit,
            banner_timeout=limit,
            auth_timeout=limit,
            channel_timeout=limit,
            disabled_algorithms={"keys": unpinned},
        )
    with explained(target, "starting the session", expired):
        transport = ssh.get_transport()
        assert transport is not None
        transport.set_keepalive(KEEPALIVE)
        with cut_after(limit, partial(line.shutdown, socket.SHUT_RDWR)):
            channel = transport.open_session(timeout=limit)
            channel.settimeout(limit)
            channel.invoke_subsystem("sftp")
        return Login(target, channel, expired)


def _private_key(target: Target) -> paramiko.PKey | None:
    if target.private_key is None:
        return None
    for kind in _KEY_TYPES:
        # A wrong type, a wrong passphrase and a damaged key raise whatever the parser stumbled over.
        with suppress(Exception):
            return kind.from_private_key(io.StringIO(target.private_key), target.passphrase)
    raise Trouble(
        Hold(
            f"the private key for {target.where} cannot be read: give an Ed25519, ECDSA or RSA key "
            "in OpenSSH or PEM form, and its passphrase if it has one"
        )
    )


class _UnpinnedError(Exception):
    def __init__(self, key: paramiko.PKey) -> None:
        self.fingerprint = key.fingerprint
        name = key.get_name()
        self.algorithms = ("rsa-sha2-512", "rsa-sha2-256") if name == "ssh-rsa" else (name,)
        super().__init__(self.fingerprint)


class _Pinned(paramiko.MissingHostKeyPolicy):
    """No known host is ever loaded, so this sees every key."""

    def __init__(self, fingerprints: tuple[str, ...]) -> None:
        self._fingerprints = fingerprints

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        if key.fingerprint not in self._fingerprints:
            raise _UnpinnedError(key)


@contextmanager
def explained(target: Target, doing: str, expired: threading.Event | None = None) -> Iterator[None]:
    try:
        yield
    except (_UnpinnedError, Trouble):
        raise
    except Exception as error:
        # Its reader thread hands on whatever a broken server provoked in it, of any class.
        if expired is not None and expired.is_set():
            raise Trouble(late(target.where, doing)) from error
        raise Trouble(explain(error, target.where, doing)) from error


def explain(error: Exception, where: str, doing: str) -> Retry | Hold:
    """What an error means for a file. Pure."""
    match error:
        case paramiko.BadAuthenticationType():
            kinds = ", ".join(sorted(str(kind) for kind in error.allowed_types))
            meaning: Retry | Hold = Hold(f"{where} does not allow this kind of login, only: {kinds}")
        # The same class also reports a timeout and a server that died: only this text is the server's no.
        case paramiko.AuthenticationException() if str(error) == "Authentication failed.":
            meaning = Hold(
                f"{where} refuses the user name, password or key: ask the advertiser for valid ones"
            )
        case paramiko.ssh_exception.IncompatiblePeer():
            meaning = Hold(
                f"{where} offers no SSH algorithm that is still safe: the advertiser must update it"
            )
        case _:
            meaning = broken(error, where, doing)
    return meaning
