"""Apache Kafka with a second address, which sends clients through a proxy for all they have to say."""

from __future__ import annotations

from pathlib import Path

from deploy.embedded.processes import Child, free_port, start
from tests.support import apache_kafka
from tests.support.proxy import Proxy

#: What members say to their group's coordinator: OffsetCommit, OffsetFetch, JoinGroup, Heartbeat, LeaveGroup,
#: SyncGroup and ConsumerGroupHeartbeat.
GROUP = frozenset({8, 9, 11, 12, 13, 14, 68})


def request(said: bytes) -> int:
    """The key of the request this begins with, in the broker's protocol."""
    return int.from_bytes(said[4:6], "big")


class LinkedKafka:
    """One broker. `bootstrap` leads to it, `linked` through `line` and nowhere else."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port, inner = free_port(), free_port()
        self.line = Proxy(inner)
        command = apache_kafka.command(folder, port)
        plain = f"PLAINTEXT://127.0.0.1:{port}"
        settings = folder / "server.properties"
        text = settings.read_text("utf-8")
        text = text.replace(f"advertised.listeners={plain}", f"advertised.listeners={{}},{plain}")
        text = text.replace(f"\nlisteners={plain}", f"\nlisteners=LINK://127.0.0.1:{inner},{plain}")
        text = text.replace("{}", f"LINK://127.0.0.1:{self.line.port}")
        text = text.replace("PLAINTEXT:PLAINTEXT", "PLAINTEXT:PLAINTEXT,LINK:PLAINTEXT")
        settings.write_text(text, "utf-8")
        self.bootstrap, self.linked = f"127.0.0.1:{port}", f"127.0.0.1:{self.line.port}"
        self.child: Child = start(command)

    def stop(self) -> None:
        self.line.close()
        self.child.stop()
