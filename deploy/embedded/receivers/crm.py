"""A CRM: takes HTTP requests on `/<connection>/…`, honours idempotency keys, makes trouble on demand.

A key seen before with the same body is a repeat and gets the first answer again; with another body it
is answered 422. Effects, repeats and mismatches go to the log, and keys are read back from it at a
restart. What a path does is its mode, given at start (`--mode /acme=503:2`) or by
`POST /_control {"/acme": "ok"}`; the longest matching prefix counts:

    ok               honour keys
    ignore-keys      every request is an effect
    lost             honour keys, apply, then reset the connection instead of answering
    applied:<status> honour keys, apply, and answer this status all the same
    slow:<ms>        as ok, answered late
    hang             read the request, never answer, apply nothing
    reset            read the request, reset the connection, apply nothing
    <status>[:<s>]   answer this status (with Retry-After: <s>), apply nothing

`DELETE /<connection>/…/<id>` forgets a person: a removal, or the repeat of one under the same key.

`GET /_control` answers the number of effects, repeats, mismatches and refusals of each connection.
With `--requests FILE` every request is a line of that file, the refused ones too, before it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from deploy.embedded.receivers import EffectLog, read_effects, until_terminated
from deploy.embedded.receivers.protocol import Answer, Http, Silence

#: About 400 bytes a key. Forgetting one would turn a repeat into an effect, so a full memory refuses.
MAX_KEYS = 2_000_000

MODE = re.compile(
    r"(ok|ignore-keys|lost|hang|reset)|slow:(\d{1,6})|applied:([2-5]\d\d)|([2-5]\d\d)(?::(\d{1,6}))?"
)
CONTROL = "/_control"


@dataclass(frozen=True, slots=True)
class Mode:
    name: str
    delay: float = 0.0
    status: int = 200
    retry_after: int | None = None


def parse_mode(text: str) -> Mode:
    """Raises ValueError where the text is no mode."""
    match = MODE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no mode: see the list at the top of deploy/embedded/receivers/crm.py")
    name, delay, lie, status, wait = match.groups()
    if name:
        return Mode(name)
    if delay:
        return Mode("ok", delay=int(delay) / 1000)
    if lie:
        return Mode("applied", status=int(lie))
    return Mode("status", status=int(status), retry_after=int(wait) if wait else None)


@dataclass(slots=True)
class Crm:
    """What the CRM remembers; `handle` is the whole of its behaviour."""

    log: EffectLog
    modes: dict[str, Mode] = field(default_factory=dict)
    referral_field: str = "referral_id"
    requests: EffectLog | None = None
    #: (connection, key) to (SHA-256 of the body, the answer's number).
    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    last: int = 0

    def restore(self, path: Path) -> None:
        for effect in read_effects(path):
            self.counts[effect["connection"]][effect["kind"]] += 1
            self.last = max(self.last, effect["number"])
            if effect["kind"] in {"effect", "removal"} and effect["key"]:
                self.keys[effect["connection"], effect["key"]] = effect["sha256"], effect["number"]

    def mode(self, path: str) -> Mode:
        matching = [prefix for prefix in self.modes if path.startswith(prefix)]
        return self.modes[max(matching, key=len)] if matching else Mode("ok")

    def handle(self, path: str, key: str, body: bytes, method: str = "POST") -> Answer | Silence:
        if path == CONTROL:
            return self._control(body)
        connection = path.split("/", 2)[1].partition("?")[0]
        mode = self.mode(path)
        if self.requests is not None:
            digest = hashlib.sha256(body).hexdigest()
            self.requests.append({"at": time.time(), "connection": connection, "key": key, "sha256": digest})
        if mode.name in {"hang", "reset", "status"}:
            self.counts[connection]["refused"] += 1
            if mode.name == "status":
                return Answer(mode.status, b"{}", mode.retry_after)
            return Silence(reset=mode.name == "reset")
        gone = path.partition("?")[0].rsplit("/", 1)[1] if method == "DELETE" else None
        answer = self._apply(connection, "" if mode.name == "ignore-keys" else key, key, body, gone)
        if mode.name == "lost":
            return Silence(reset=True)
        status = mode.status if mode.name == "applied" else answer.status
        return Answer(status, answer.body, delay=mode.delay)

    def _apply(self, connection: str, remembered: str, key: str, body: bytes, gone: str | None) -> Answer:
        """`gone`: the person to forget, if that is what is asked."""
        digest = hashlib.sha256(body if gone is None else gone.encode()).hexdigest()
        known = self.keys.get((connection, remembered)) if remembered else None
        kind = "effect" if known is None else "repeat" if known[0] == digest else "mismatch"
        if gone is not None:
            kind = {"effect": "removal", "repeat": "removal-repeat"}.get(kind, kind)
        if known is None and remembered and len(self.keys) >= MAX_KEYS:
            return Answer(507, b'{"error":"this receiver remembers no more keys: restart it with a new log"}')
        try:
            document = json.loads(body) if gone is None else {self.referral_field: gone}
        except ValueError:
            return Answer(400, b'{"error":"not JSON"}')
        referral = document.get(self.referral_field) if isinstance(document, dict) else None
        number = self.last + 1 if known is None else known[1]
        self.last = max(self.last, number)
        if known is None and remembered:
            self.keys[connection, remembered] = digest, number
        self.counts[connection][kind] += 1
        line = {"kind": kind, "connection": connection, "key": key, "referral_id": referral}
        self.log.append({**line, "sha256": digest, "number": number})
        if kind == "mismatch":
            return Answer(422, b'{"error":"this key came with another body"}')
        return Answer(201, b'{"id":%d}' % number)

    def _control(self, body: bytes) -> Answer:
        try:
            changes = {prefix: parse_mode(mode) for prefix, mode in json.loads(body or b"{}").items()}
        except (ValueError, AttributeError, TypeError) as error:
            return Answer(400, json.dumps({"error": str(error)}).encode())
        self.modes.update(changes)
        return Answer(200, json.dumps(self.counts).encode())


async def serve(host: str, port: int, crm: Crm) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Http(crm.handle), host, port, backlog=1024
    )
    await until_terminated(str(server.sockets[0].getsockname()[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="A CRM that records what it was sent.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--requests", type=Path)
    parser.add_argument("--mode", action="append", default=[], metavar="/PREFIX=MODE")
    parser.add_argument("--referral-field", default="referral_id")
    given = parser.parse_args()
    requests = EffectLog(given.requests) if given.requests else None
    crm = Crm(EffectLog(given.log), referral_field=given.referral_field, requests=requests)
    for pair in given.mode:
        prefix, _, mode = pair.partition("=")
        crm.modes[prefix] = parse_mode(mode)
    crm.restore(given.log)
    asyncio.run(serve(given.host, given.port, crm))


if __name__ == "__main__":
    main()
