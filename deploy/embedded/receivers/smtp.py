"""An inbox: accepts mail, keeps one line per recipient in the log and each attachment in a file.

Effects are counted per accepted transaction, so a mail that came twice stands there twice, and each
keeps its own file. What a recipient does to a mail is its mode (`--mode someone@example.com=drop`):

    ok       accept
    <code>   refuse the recipient with this status
    data-<code>  refuse the mail with this status, after its last byte
    drop     accept and keep the mail, then drop the connection instead of answering
    hang     accept and keep the mail, then never answer
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import re
import ssl
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from deploy.embedded.receivers import EffectLog, read_effects, until_terminated

MODE = re.compile(r"ok|drop|hang|(?:data-)?[45]\d\d")
#: A test's stand-in for servers without a limit of their own; larger than any mail we send.
SIZE_LIMIT = 32 * 1024 * 1024


@dataclass(slots=True)
class Inbox:
    log: EffectLog
    folder: Path
    modes: dict[str, str]
    last: int = 0

    def mode(self, recipient: str) -> str:
        return self.modes.get(recipient.lower(), "ok")

    # The two hooks are named by aiosmtpd.
    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if self.mode(address).isdigit():
            return f"{self.mode(address)} 5.0.0 this recipient is scripted to refuse"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        modes = [self.mode(recipient) for recipient in envelope.rcpt_tos]
        for mode in modes:
            if mode.startswith("data-"):
                detail = "5.3.4 too big" if mode == "data-554" else "scripted to refuse"
                return f"{mode.removeprefix('data-')} {detail}"
        self._keep(envelope)
        if "hang" in modes:
            await asyncio.Event().wait()
        if "drop" in modes:
            server.transport.abort()
        return f"250 OK queued as {self.last}"

    def _keep(self, envelope: Any) -> None:
        raw = bytes(envelope.original_content)
        message = message_from_bytes(raw, policy=policy.SMTP)
        for recipient in envelope.rcpt_tos:
            self.last += 1
            files = []
            for part in message.iter_attachments():
                name = re.sub(r"[^\w.-]", "_", part.get_filename() or "attachment")
                path = self.folder / f"{self.last:06d}-{name}"
                content: Any = part.get_payload(decode=True)
                path.write_bytes(content)
                files.append(path.name)
            effect = {"kind": "mail", "number": self.last, "recipient": recipient, "files": files}
            effect["subject"] = str(message["Subject"])
            ids = {"message_id": message["Message-ID"], "sha256": hashlib.sha256(raw).hexdigest()}
            self.log.append({**effect, **ids})


def tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def serve(host: str, port: int, inbox: Inbox, settings: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(inbox, loop=loop, **settings), host, port)
    await until_terminated(str(server.sockets[0].getsockname()[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="An SMTP server that keeps every mail.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="the folder for attachments")
    parser.add_argument("--mode", action="append", default=[], metavar="ADDRESS=MODE")
    parser.add_argument("--size-limit", type=int, default=SIZE_LIMIT)
    parser.add_argument("--certificate", type=Path, help="PEM; with it STARTTLS is offered")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--users", type=Path, help="JSON: user to password; with it a login is required")
    given = parser.parse_args()
    given.store.mkdir(parents=True, exist_ok=True)
    modes = dict(pair.lower().rsplit("=", 1) for pair in given.mode)
    if wrong := [mode for mode in modes.values() if not MODE.fullmatch(mode)]:
        parser.error(f"{wrong[0]!r} is no mode: see the list at the top of this receiver's file")
    users = json.loads(given.users.read_text()) if given.users else {}

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any) -> Any:
        if not isinstance(login, LoginPassword):
            return AuthResult(success=False, handled=False)
        known = users.get(login.login.decode(), "")
        good = bool(known) and hmac.compare_digest(known.encode(), login.password)
        return AuthResult(success=good, handled=False)

    inbox = Inbox(EffectLog(given.log), given.store, modes)
    inbox.last = max((effect["number"] for effect in read_effects(given.log)), default=0)
    settings = {"data_size_limit": given.size_limit, "tls_context": tls(given.certificate, given.key)}
    if users:
        settings |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": True}
    asyncio.run(serve(given.host, given.port, inbox, settings))


if __name__ == "__main__":
    main()
