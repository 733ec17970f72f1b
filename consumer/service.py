"""What every service process shares: settings, signals, `/metrics`, `/healthz`, `/readyz`, the last line."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from consumer import log, metrics
from consumer.addresses import Policy, networks
from consumer.intake import LANE_BYTES, LANE_DELIVERIES
from consumer.store import StoreRefused, StoreUnavailable

#: Liveness: a loop that has not gone round for this long is stuck. Above every bounded wait inside it.
STUCK_AFTER_S = 180.0
#: Readiness: a loop silent for longer is held up by another server.
SILENT_AFTER_S = 10.0
#: SIGTERM to exit: finish what is under way, start nothing new. What does not end by then is cut off:
#: everything is made for that. Kubernetes' grace must be longer.
DRAIN_S = 25.0


class Stop(Exception):  # noqa: N818 - an orderly end with one line for the operator
    """End this process with one clear line: what happened, and what to do."""


def _redis_url(given: str) -> str:
    """Checked here, since the client's own complaint comes late and unclear."""
    try:
        parts = urlsplit(given)
        fits = parts.scheme in {"redis", "rediss"} and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not (parts.path.strip("/") or "0").isdecimal():
        raise ValueError("give it as redis://[user:password@]host[:port][/database], or rediss:// for TLS")
    return given


def _networks(given: str) -> str:
    networks(given)
    return given


class Settings(BaseModel):
    """From the environment: REFERRALS_KAFKA, REFERRALS_REDIS and so on, the field's name in capitals."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kafka: str = "127.0.0.1:9092"
    #: Further librdkafka properties as a JSON object, such as SASL and TLS.
    kafka_config: dict[str, Any] = {}
    #: Put before the names of our topics and the Redis keys: several deployments may share servers.
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9.-]{0,40}$")] = ""
    redis: Annotated[str, AfterValidator(_redis_url)] = "redis://127.0.0.1:6379/0"
    #: Replicas a durable write waits for.
    redis_replicas: Annotated[int, Field(ge=0, le=5)] = 0
    #: Play only: accept a Redis that forgets.
    allow_volatile_redis: bool = False
    #: Folder of accounts' files; without one the stored set is used.
    connections: str | None = None
    schema_registry: Annotated[str | None, Field(pattern=r"^https?://[^\s/]")] = None
    #: The relay mail goes through, host:port, and how.
    smtp: str = "127.0.0.1:25"
    smtp_starttls: bool = True
    smtp_username: str | None = None
    smtp_password: str | None = None
    mail_from: str = "referrals@localhost"
    #: Where /metrics, /healthz and /readyz listen. 0 takes a free port.
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 0
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    session_timeout_ms: Annotated[int, Field(ge=6_000, le=300_000)] = 45_000
    group_protocol: Annotated[str, Field(pattern="^(classic|consumer)$")] = "classic"
    #: Requests in flight over all lanes of a push worker.
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    #: A lane (a connection in a partition) holds so much in Redis; what comes on top waits in Kafka.
    lane_deliveries: Annotated[int, Field(ge=1, le=10_000_000)] = LANE_DELIVERIES
    lane_bytes: Annotated[int, Field(ge=1 << 20)] = LANE_BYTES
    #: Development only: push to http:// addresses too.
    allow_http: bool = False
    #: Networks that may be called though they are not public, as CIDRs with commas between.
    allowed_networks: Annotated[str, AfterValidator(_networks)] = ""
    #: Push to other ports than 443 and 8443.
    any_port: bool = False

    @property
    def policy(self) -> Policy:
        """What may be called."""
        return Policy(self.allow_http, networks(self.allowed_networks), self.any_port)


def settings() -> Settings:
    """Read the environment. Raises Stop, naming every variable that is wrong, never its value."""
    given: dict[str, Any] = {
        name.removeprefix("REFERRALS_").lower(): value
        for name, value in os.environ.items()
        if name.startswith("REFERRALS_") and value
    }
    if "kafka_config" in given:
        try:
            given["kafka_config"] = json.loads(given["kafka_config"])
        except ValueError as error:
            raise Stop("REFERRALS_KAFKA_CONFIG is not a JSON object of librdkafka properties") from error
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(
            f"REFERRALS_{str(item['loc'][0]).upper()}: {item['msg']}"
            for item in error.errors(include_input=False)
        )
        raise Stop(f"environment: {wrong}") from error


class Health:
    """What the probes answer. Liveness follows the main loop alone: an outage of Kafka or Redis must
    not become a storm of restarts.
    """

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._ready, self._reason = False, "starting"

    def beat(self) -> None:
        """The main loop went round."""
        self._beat = time.monotonic()
        metrics.PROGRESS.set_to_current_time()

    def tell(self, *, ready: bool, reason: str) -> None:
        """What the main loop thinks of itself."""
        self._ready, self._reason = ready, reason

    def readiness(self) -> tuple[bool, str]:
        """Ready, and why or why not. A loop that waits for Redis or Kafka says nothing: that counts as no."""
        if time.monotonic() - self._beat > SILENT_AFTER_S:
            return False, "the main loop waits for Redis or Kafka"
        return self._ready, self._reason

    def alive(self) -> bool:
        return time.monotonic() - self._beat < STUCK_AFTER_S


class Service:
    """One process: its stop flag and its HTTP face."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self.health = Health()
        metrics.start()
        # A handler runs in the middle of whatever the main thread does, which may hold the flag's own lock:
        # it writes a byte, and a thread does the rest.
        told, self._tell = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.write(self._tell, b"."))
        threading.Thread(target=self._await_signal, args=(told,), name="signals", daemon=True).start()
        handler = type("Handler", (_Handler,), {"health": self.health})
        try:
            self._server = ThreadingHTTPServer((settings.http_host, settings.http_port), handler)
        except OSError as error:
            where = f"{settings.http_host}:{settings.http_port}"
            raise Stop(
                f"cannot listen on {where} for /metrics: {error.strerror}; set REFERRALS_HTTP_PORT"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def _await_signal(self, told: int) -> None:
        os.read(told, 1)
        self.stopping.set()
        # What comes after the first is read by nobody and fills nothing: a pipe holds thousands.
        timer = threading.Timer(DRAIN_S, cut_off)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def cut_off() -> None:
    """End now, whatever threads still wait for: what they leave is taken up by whoever comes next."""
    log.trouble("service.cut_off")
    os._exit(0)


class _Handler(BaseHTTPRequestHandler):
    health: Health
    timeout = 10

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(200, metrics.exposition(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/healthz":
            alive = self.health.alive()
            self._answer(200 if alive else 503, b"ok\n" if alive else b"the main loop is stuck\n")
        elif self.path == "/readyz":
            ready, reason = self.health.readiness()
            self._answer(200 if ready else 503, f"{reason}\n".encode())
        else:
            self._answer(404, b"/metrics /healthz /readyz\n")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Probes are not news."""


def run(main: Callable[[], None]) -> int:
    """Run a process's main to its exit code: a Stop becomes one line on standard error, and so does a Redis
    that goes away while it starts.
    """
    try:
        main()
    except Stop as stop:
        line = str(stop)
    except (StoreUnavailable, StoreRefused) as error:
        line = f"{error}: check REFERRALS_REDIS and start again"
    else:
        return 0
    log.write_out()
    sys.stderr.write(f"{line}\n")
    return 1
