"""Before the stack's first start: a host key and a login for the SFTP receiver, and the account's file.

Its law: what is there already is kept, so running it again changes nothing.
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path

from deploy.embedded.receivers.sftp import host_key

USER = "brightbox"
TEMPLATE = Path(__file__).with_name("brightbox.yaml")
#: Stands in TEMPLATE where the receiver's fingerprint belongs.
PLACEHOLDER = f"SHA256:{'A' * 43}"


def prepare(data: Path, etc: Path) -> None:
    """The receiver's side goes to `data`, the sender's to `etc`/connections and `etc`/secrets."""
    password = etc / "secrets" / "sftp-password"
    if not password.exists():
        password.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(password, secrets.token_urlsafe(24))
    _write(data / "users.json", json.dumps({USER: {"password": password.read_text()}}))
    fingerprint = host_key(data / "host-key").get_fingerprint()
    connections = etc / "connections"
    connections.mkdir(exist_ok=True)
    (connections / TEMPLATE.name).write_text(
        TEMPLATE.read_text("utf-8").replace(PLACEHOLDER, fingerprint), "utf-8"
    )


def _write(path: Path, secret: str) -> None:
    path.touch(0o600)
    path.write_text(secret)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the stack's SFTP host key, login and connections.")
    parser.add_argument("--data", type=Path, default=Path("/data"))
    parser.add_argument("--etc", type=Path, default=Path("/etc/referrals"))
    given = parser.parse_args()
    prepare(given.data, given.etc)


if __name__ == "__main__":
    main()
