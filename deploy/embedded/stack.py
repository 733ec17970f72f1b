"""Everything at once on this machine: broker, Valkey, three receivers and the three services.

All of it lives in one folder: a log per process, the accounts' files, and what the receivers got. A
start begins with an empty folder, for the embedded broker keeps nothing either.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from console import connections
from console.begin import begin
from consumer.service import Settings, Stop
from deploy.embedded import account_files, broker, valkey
from deploy.embedded.accounts import Plan, plan
from deploy.embedded.processes import Child, Command, Pause, StartError, free_port, printed, raise_open_files
from deploy.embedded.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
#: The common default; a service's work is spread over as many.
PARTITIONS = 8
#: The shortest that is allowed: the embedded broker lets a group's first join take half of it.
SESSION_TIMEOUT_MS = 6_000
#: The embedded broker answers a fetch that found nothing when its wait is over, whatever came meanwhile:
#: with the usual 500 ms it alone would make up the latency.
FETCH_WAIT_MS = 20
#: The first join, on two busy cores.
JOINED_WITHIN, JOIN_POLL = 60.0, 0.1
#: Receivers and services answer a probe at once.
PROBE_TIMEOUT = 5.0

SERVICES: Mapping[str, tuple[str, ...]] = {
    "push": ("consumer",),
    "collect": ("batcher", "collect"),
    "flush": ("batcher", "flush"),
}
RECEIVERS = ("crm", "sftp", "smtp")
PROCESSES = ("broker", "valkey", *RECEIVERS, *SERVICES)

Say = Callable[[str], None]
#: Says that a folder is a run's own, to be emptied by the next.
MARKER = ".referrals"


class Stack:
    """Started whole or not at all; `stop` leaves nothing running. Start it from the main thread."""

    def __init__(self, folder: Path, say: Say, pause: Pause, cron: str = account_files.CRON) -> None:
        """`say` prints one line for a person. `cron`: when the file connections' windows are due."""
        self.folder, self._say, self._cron = folder.absolute(), say, cron
        self.pause = pause
        self.plan: Plan = plan()
        self.ports = dict(zip(PROCESSES, _free_ports(len(PROCESSES)), strict=True))
        self.settings = Settings(
            kafka=f"127.0.0.1:{self.ports['broker']}",
            kafka_config={"fetch.wait.max.ms": FETCH_WAIT_MS},
            redis=valkey.url(self.ports["valkey"]),
            smtp=f"127.0.0.1:{self.ports['smtp']}",
            smtp_starttls=False,
            mail_from="referrals@market.example",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            allow_http=True,
            allowed_networks="127.0.0.0/8,::1/128",
        )
        self._supervisor = Supervisor(say)
        self._children: dict[str, Child] = {}
        self._recovered = 0
        self._lock: IO[str] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What a service or a `referrals` command needs in its environment to work here."""
        chosen = self.settings.model_dump(mode="json", exclude_unset=True)
        return {
            f"REFERRALS_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in chosen.items()
        }

    @property
    def connections(self) -> Path:
        return self.folder / "connections"

    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items()}

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def effects(self, receiver: str) -> Path:
        """Where a receiver notes what it got."""
        return self.folder / "received" / f"{receiver}.jsonl"

    def start(self) -> None:
        """Raises StartError with one line that says which log to read, and what `pause` raises.

        Call `stop` or `kill` in any case.
        """
        raise_open_files()
        self.take_folder()
        self._say("starting the broker, Valkey, a CRM, an SFTP server and an inbox")
        self._launch([self._broker(), self._valkey(), *(self._receiver(name) for name in RECEIVERS)])
        self._say(f"initialising the topics and {len(self.plan.connections)} connections")
        self._initialise()
        self._say("starting the services push, collect and flush; joining takes some seconds")
        self._launch([self._service(name) for name in SERVICES])
        self._joined()

    def check(self, now: float) -> str | None:
        """Restart what was killed. Why the stack must stop, or None. `now`: any monotonic seconds."""
        trouble = self._supervisor.check(now)
        if trouble is None and self._recovered not in {0, self._children["crm"].pid}:
            self.recover()  # restarted, it has its first modes again
        return None if trouble is None else f"{trouble} (logs: {shown(self.folder)}/*.log)"

    def recover(self) -> None:
        """The CRMs that answered 503 work again; the hanging one does not."""
        self._recovered = self._children["crm"].pid
        probe(self.ports["crm"], "/_control", json.dumps(self.plan.crm_recovery()))

    def stop_services(self) -> None:
        """In an orderly way: what is under way ends, receipts reach Kafka."""
        self._supervisor.stop(len(SERVICES))

    def stop(self) -> None:
        """Stop everything in an orderly way, the services first."""
        self._supervisor.stop()
        self._release()

    def kill(self) -> None:
        """Stop everything at once."""
        self._supervisor.kill()
        self._release()

    def take_folder(self) -> None:
        """Ours alone, and empty. Raises StartError where another run has it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.folder.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(f"{shown(self.folder)} is in use by another run: stop that one first") from error
        ours = self.folder / MARKER
        if self.folder.exists() and any(self.folder.iterdir()) and not ours.exists():
            raise StartError(f"{shown(self.folder)} holds files that are not ours: name another folder")
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "received").mkdir(parents=True)
        ours.touch()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _launch(self, commands: list[Command]) -> None:
        try:
            for child in self._supervisor.start_together(commands, self.pause):
                self._children[child.command.name] = child
        except StartError as error:
            raise StartError(f"{error} (logs: {shown(self.folder)}/*.log)") from error

    def _initialise(self) -> None:
        key = self._children["sftp"].output().split()[2]  # ready PORT KEY
        ports = self.ports
        account_files.write(self.plan, self.connections, ports["crm"], ports["sftp"], key, self._cron)
        try:
            begin(self.settings, "earliest", PARTITIONS, 1)
            connections.apply(self.settings, connections.read(self.settings, str(self.connections)))
        except Stop as stop:
            raise StartError(
                f"the stack cannot be initialised: {stop} (logs: {shown(self.folder)}/*.log)"
            ) from stop

    def _joined(self) -> None:
        """Every service says it is ready: push and collect have their partitions."""
        deadline = time.monotonic() + JOINED_WITHIN
        for name in SERVICES:
            while (reply := probe(self.ports[name], "/readyz"))[0] != http.client.OK:
                trouble = self.check(time.monotonic())
                if trouble is None and time.monotonic() > deadline:
                    trouble = f"{name} is not ready after {JOINED_WITHIN:g} s: {reply[1].strip()}"
                    trouble += f" (its log: {shown(self.log(name))})"
                if trouble is not None:
                    raise StartError(trouble)
                self.pause(JOIN_POLL)

    def _broker(self) -> Command:
        return broker.command(self.log("broker"), self.ports["broker"])

    def _valkey(self) -> Command:
        return valkey.command(self.folder / "valkey", self.log("valkey"), self.ports["valkey"])

    def _receiver(self, name: str) -> Command:
        more: list[str] = []
        if name == "crm":
            more = [f"--mode={path}={mode}" for path, mode in self.plan.crm_modes().items()]
        elif name == "sftp":
            users = self.folder / "sftp_users.json"
            users.touch(0o600)
            users.write_text(json.dumps({user: dict(login) for user, login in self.plan.sftp_users.items()}))
            more = [f"--users={users}", f"--root={self.files}", f"--host-key={self.folder / 'sftp_host_key'}"]
        elif name == "smtp":
            more = [f"--store={self.mails}"]
        fixed = ["--port", str(self.ports[name]), "--log", str(self.effects(name))]
        return self._python(name, [f"deploy.embedded.receivers.{name}", *fixed, *more], "ready ", {})

    def _service(self, name: str) -> Command:
        # A setting of the person who starts this is not meant for the stack; empty counts as unset.
        environment = {variable: "" for variable in os.environ if variable.startswith("REFERRALS_")}
        environment |= {**self.variables, **self.plan.environment}
        environment["REFERRALS_HTTP_PORT"] = str(self.ports[name])
        return self._python(name, list(SERVICES[name]), '"service.started"', environment)

    @property
    def files(self) -> Path:
        """A folder per SFTP user."""
        return self.folder / "received" / "files"

    @property
    def mails(self) -> Path:
        """Attachments of mails."""
        return self.folder / "received" / "mails"

    def _python(self, name: str, module: list[str], ready: str, environment: Mapping[str, str]) -> Command:
        argv = (sys.executable, "-m", *module)
        return Command(name, argv, self.log(name), printed(ready), environment, folder=ROOT)


def probe(port: int, path: str, body: str | None = None) -> tuple[int, str]:
    """Status and body of what one of our processes answers; 0 where nobody does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, f"no answer ({type(error).__name__})"
    finally:
        connection.close()


def shown(path: Path) -> str:
    """A path as a person at the project's root would type it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _free_ports(count: int) -> set[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return ports
