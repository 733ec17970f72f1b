"""`make up`: the demo's stack, left running until Ctrl-C, with a trickle of new referrals.

What is killed is started again. The broker alone keeps nothing: with it go its topics, the services
then stop, and so does the stack.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from consumer.kafka_out import NotAcknowledged
from deploy.embedded.accounts import TROUBLE_SECONDS
from deploy.embedded.interrupts import Interrupted, Interrupts
from deploy.embedded.processes import StartError
from deploy.embedded.publisher import Publisher
from deploy.embedded.stack import RECEIVERS, ROOT, SERVICES, Stack, shown

FOLDER = ROOT / "out" / "up"
#: Enough that every advertiser has some.
FIRST, RATE = 500, 5
#: Every minute: files and mails appear while one looks on.
CRON = "* * * * *"
CHECK_EVERY = 0.2
PUBLISH_EVERY = 1.0


class Trickle:
    """Publishes in a thread of its own: whatever Kafka does, the rest is looked after."""

    def __init__(self, stack: Stack, first: int, rate: int) -> None:
        """`first` at once, then `rate` a second."""
        # Other people each time it is started.
        seed = time.time_ns()
        self._publisher = Publisher(stack.settings, stack.plan, lambda: datetime.now(UTC), seed)
        self._first, self._rate = first, rate
        self._thread = threading.Thread(target=self._run, name="trickle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        count = self._first
        while True:
            try:
                if count:
                    self._publisher.publish(count)
            except NotAcknowledged as error:
                say(f"not published: {error}")
            count = self._rate
            time.sleep(PUBLISH_EVERY)


def told(stack: Stack) -> str:
    """Where everything is."""
    ports, folder = stack.ports, shown(stack.folder)
    lines = [
        f"{name:8} http://127.0.0.1:{ports[name]}/metrics   /healthz   /readyz   log: {folder}/{name}.log"
        for name in SERVICES
    ]
    lines += [
        f"Kafka    {stack.settings.kafka}",
        f"Redis    {stack.settings.redis}",
        f"got      {', '.join(shown(stack.effects(name)) for name in RECEIVERS)}: a line per effect",
        f"files    {shown(stack.files)}/ACCOUNT/, attachments of mails in {shown(stack.mails)}/",
        "the `referrals` command, in another terminal:",
        f"  . {shown(stack.folder / 'env')} && {shown(Path(sys.executable))} -m console --help",
        "which sets",
        *(f"  {line}" for line in exports(environment(stack)).splitlines()),
    ]
    return "\n".join(lines)


def environment(stack: Stack) -> dict[str, str]:
    return {**stack.variables, "REFERRALS_CONNECTIONS": str(stack.connections)}


def exports(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))


def keep(stack: Stack) -> str:
    """Look after the stack until it must stop; why. Raises Interrupted."""
    pids: dict[str, int] = {}
    recover_at: float | None = time.monotonic() + TROUBLE_SECONDS
    while True:
        now = time.monotonic()
        trouble = stack.check(now)
        if trouble is not None:
            return trouble
        if pids != stack.pids():
            pids = stack.pids()
            _replace(stack.folder / "pids.json", json.dumps(pids))
        if recover_at is not None and now >= recover_at:
            stack.recover()
            recover_at = None
            say("the CRMs that answered 503 work again")
        stack.pause(CHECK_EVERY)


def _replace(path: Path, content: str) -> None:
    """Readers see the old or the new, never half of it."""
    part = path.with_suffix(".part")
    part.write_text(content, "utf-8")
    part.replace(path)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.embedded.up", description="The demo's stack, left running."
    )
    parser.add_argument("--rate", type=int, default=RATE, help="referrals a second")
    parser.add_argument("--referrals", type=int, default=FIRST, help="referrals at the start")
    parser.add_argument("--out", type=Path, default=FOLDER, help="a folder for all of it, emptied first")
    given = parser.parse_args()
    interrupts = Interrupts()
    stack = Stack(given.out, say, interrupts.pause, CRON)
    started = False
    try:
        stack.start()
        (stack.folder / "env").write_text(exports(environment(stack)), "utf-8")
        say(told(stack))
        Trickle(stack, given.referrals, given.rate).start()
        started = True
        say("running until Ctrl-C")
        trouble = keep(stack)
    except StartError as error:
        trouble = str(error)
    except Interrupted:
        _stop(stack, started=started)
        return 0
    except KeyboardInterrupt:
        return 130
    finally:
        stack.kill()
    sys.stderr.write(f"{trouble}\n")
    return 1


def _stop(stack: Stack, *, started: bool) -> None:
    if not started:
        say("\nstopped")
        return
    say("\nstopping; Ctrl-C again to stop at once")
    try:
        stack.stop()
    except KeyboardInterrupt:
        say("\nstopped at once")


if __name__ == "__main__":
    sys.exit(main())
