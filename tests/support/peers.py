"""HTTP peers that answer byte for byte what a test says, over real connections on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from consumer.addresses import Policy, networks

#: Servers on this machine may be called, without TLS too.
LOCAL = Policy(allow_http=True, allowed_networks=networks("127.0.0.0/8,::1/128"))

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: Bytes are written and the connection closed; a callable does as it likes, and keeps it by returning True.
Reply = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class Peer:
    port: int = 0
    connections: int = 0
    #: (head, body) of every request read in full.
    received: list[tuple[bytes, bytes]] = field(default_factory=list)
    #: Set with the first of them.
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/referrals?token=SECRET-QUERY"


def answer(status: int = 200, *headers: str, body: bytes = b"") -> Reply:
    """A well-formed answer on a connection that stays."""
    head = "".join(
        f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers)
    )

    async def write(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(head.encode("latin-1") + b"\r\n" + body)
        await writer.drain()
        return True

    return write


def then_reset(given: bytes = b"") -> Reply:
    async def write(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(given)
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    return write


def then_hang(given: bytes = b"", drip: bytes = b"") -> Reply:
    """Write, then until the other side leaves: nothing, or `drip` every 10 ms."""

    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(given)
        while not reader.at_eof() and not writer.is_closing():
            writer.write(drip)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.01)

    return write


@contextlib.asynccontextmanager
async def peer(
    *script: Reply,
    tls: ssl.SSLContext | None = None,
    reads: bool = True,
    at: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Peer]:
    """A server whose n-th request gets the n-th reply, and every later one the last."""
    state = Peer()
    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        number = state.connections
        keep: bool | None = True
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while keep:
                if reads:
                    state.received.append(await read_request(reader))
                    state.asked.set()
                    number = len(state.received)
                reply = script[min(number, len(script)) - 1]
                if isinstance(reply, bytes):
                    writer.write(reply)
                    await writer.drain()
                keep = None if isinstance(reply, bytes) else await reply(reader, writer)
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks[asyncio.create_task(serve(reader, writer))] = writer

    server = await asyncio.start_server(connected, at, port, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task, writer in tasks.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(
            *tasks, *(writer.wait_closed() for writer in tasks.values()), return_exceptions=True
        )


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
    )
    return head, await reader.readexactly(int(length.partition(b":")[2]))
