"""HTTP/1.1 as the CRM speaks it: whole requests in, answers and silences out."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Larger than any referral: whoever sends more is broken, and memory is shared by all senders.
MAX_HEAD, MAX_BODY = 32 * 1024, 1024 * 1024
#: Who is refused may still be sending: closing at once would reset the connection and lose the answer.
LINGER_S = 2.0
#: struct linger {on, 0 seconds}: close sends a reset instead of an orderly end.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    retry_after: int | None = None
    delay: float = 0.0

    def encoded(self) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} .",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
        ]
        if self.retry_after is not None:
            lines.append(f"Retry-After: {self.retry_after}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        return head.encode() + self.body


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer: the connection stays open, or is reset."""

    reset: bool


#: Given target, idempotency key, body and method.
Handle = Callable[[str, str, bytes, str], Answer | Silence]


class Http(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and bodies of a stated length: what our client sends, and fast."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.buffer = bytearray()
        self.busy = False
        self.refused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            self.buffer += data
            self._advance()

    def _advance(self) -> None:
        while not self.busy and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            method, target, headers = _head(bytes(self.buffer[:end]))
            length = headers.get("content-length", "0")
            if "transfer-encoding" in headers or not length.isascii() or not length.isdigit():
                self._refuse(Answer(411, b'{"error":"send a Content-Length"}'))
                return
            if int(length) > MAX_BODY:
                self._refuse(Answer(413))
                return
            stop = end + 4 + int(length)
            if len(self.buffer) < stop:
                return
            body = bytes(self.buffer[end + 4 : stop])
            del self.buffer[:stop]
            key = headers.get("idempotency-key", "").strip('"')
            self._answer(self._handle(target, key, body, method))
        if len(self.buffer) > (MAX_HEAD + MAX_BODY if self.busy else MAX_HEAD):
            self._refuse(Answer(431))

    def _answer(self, answer: Answer | Silence) -> None:
        match answer:
            case Answer(delay=0.0):
                self.transport.write(answer.encoded())
            case Answer():
                self.busy = True
                asyncio.get_running_loop().call_later(answer.delay, self._late, answer)
            case Silence(reset=reset):
                self.busy = True
                if reset:
                    raw = self.transport.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    self.transport.abort()

    def _late(self, answer: Answer) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer.encoded())
            self.busy = False
            self._advance()

    def _refuse(self, answer: Answer) -> None:
        self.transport.write(answer.encoded())
        self.transport.write_eof()
        self.busy = self.refused = True
        self.buffer.clear()
        asyncio.get_running_loop().call_later(LINGER_S, self.transport.close)


def _head(head: bytes) -> tuple[str, str, dict[str, str]]:
    request, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    method, target = request.split(" ")[:2] if request.count(" ") == 2 else ("POST", "/")
    return method, target, {name.lower(): value.strip() for name, _, value in pairs}
