"""The receiver of throughput points: nginx, which takes every request and answers 200 at once."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from pathlib import Path

from deploy.embedded.processes import Child, Command, free_port, port_open, start
from tests.support import debian

#: Connections kept open by a pushing worker, several times over.
CONNECTIONS = 16_384
#: How the ceiling is found: so many connections, each with so many requests sent before an answer is read.
LINES, DEPTH = 16, 64
CEILING_REQUESTS = 100_000
ANSWER_S = 10.0

_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
worker_rlimit_nofile 65536;
events {{ worker_connections {connections}; }}
http {{
  access_log off; keepalive_timeout 600; keepalive_requests 1000000000; server_tokens off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /_status {{ stub_status; }}
    location / {{ return 200 ""; }}
  }}
}}
"""


def find() -> Path | str:
    """The program, or why there is none."""
    return debian.server("nginx")


class Nginx:
    """A running one; `taken` counts what it was asked."""

    name = "nginx"

    def __init__(self, program: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        conf = folder / "nginx.conf"
        conf.write_text(_CONF.format(folder=folder, port=self.port, connections=CONNECTIONS))
        argv = (str(program), "-p", str(folder), "-c", str(conf), "-e", "stderr")
        libraries = debian.libraries(program.parents[2])
        self._child: Child = start(Command("nginx", argv, folder / "output", port_open(self.port), libraries))

    def taken(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_status", timeout=ANSWER_S) as answer:
            told = answer.read().decode()
        found = re.search(r"\n\s*\d+ \d+ (\d+)", told)
        assert found
        return int(found[1])

    def stop(self) -> None:
        self._child.stop()


def ceiling(port: int, body: bytes, requests: int = CEILING_REQUESTS) -> float:
    """Requests a second a receiver answers when its client costs next to nothing."""
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    batch = (head + body) * DEPTH
    lines = [socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) for _ in range(LINES)]
    try:
        began, answered = time.monotonic(), 0
        while answered < requests:
            for line in lines:
                line.sendall(batch)
            for line in lines:
                _read(line)
            answered += LINES * DEPTH
        return answered / (time.monotonic() - began)
    finally:
        for line in lines:
            line.close()


def _read(line: socket.socket) -> None:
    found, tail = 0, b""
    while found < DEPTH:
        chunk = tail + line.recv(262_144)
        assert len(chunk) > len(tail), "the receiver closed a connection"
        found += chunk.count(b"HTTP/1.1 200")
        tail = chunk[-11:]
