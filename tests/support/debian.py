"""Programs from Debian's packages, not installed but unpacked: once per checkout, with what they need."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache"
#: A few packages of some megabytes, over a slow line.
FETCH_SECONDS = 120
LINKER_SECONDS = 20


def unpack(package: str) -> Path | str:
    """The folder with the package's tree, or why there is none."""
    folder = CACHE / package
    try:
        once(folder, lambda place: _fetch(package, place))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"{package} is not installed here and cannot be fetched from Debian ({type(error).__name__})"
    return folder


def libraries(tree: Path, *more: Path) -> Mapping[str, str]:
    """The environment in which the tree's programs find its libraries, and those in the folders `more`."""
    folders = [*more, *tree.glob("usr/lib/*-linux-gnu*"), *tree.glob("lib/*-linux-gnu*")]
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))} if folders else {}


def complete(program: Path, environment: Mapping[str, str]) -> bool:
    """Whether it is there and finds its libraries."""
    if not program.exists():
        return False
    linked = subprocess.run(
        ("ldd", str(program)),
        capture_output=True,
        check=False,
        timeout=LINKER_SECONDS,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return linked.returncode == 0 and "not found" not in linked.stdout


def once(folder: Path, make: Callable[[Path], object]) -> None:
    """Let `make` fill an empty folder unless `folder` is there: it appears whole or not at all."""
    if folder.exists():
        return
    making = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    making.mkdir(parents=True)
    try:
        make(making)
        try:
            making.rename(folder)
        except OSError:
            if not folder.exists():  # another run was faster
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def server(name: str) -> Path | str:
    """The program of that name, installed or unpacked from its package; or why there is none."""
    installed = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if installed:
        return Path(installed)
    tree = unpack(name)
    if isinstance(tree, str):
        return tree
    program = tree / "usr" / "sbin" / name
    return program if complete(program, libraries(tree)) else f"{name} lacks libraries here"


def run(*argv: str, folder: Path) -> str:
    """What it printed. Raises OSError and SubprocessError."""
    return subprocess.run(
        argv,
        cwd=folder,
        capture_output=True,
        check=True,
        timeout=FETCH_SECONDS,
        stdin=subprocess.DEVNULL,
        text=True,
    ).stdout


def _fetch(package: str, place: Path) -> None:
    # What an installation would add here: the package, and what it needs that this machine lacks.
    wanted = run(
        "apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", package, folder=place
    )
    names = [line.split()[1].split("_")[0] for line in wanted.splitlines() if line.startswith("'")]
    run("apt-get", "download", *(names or [package]), folder=place)
    for archive in sorted(place.glob("*.deb")):
        run("dpkg", "-x", archive.name, ".", folder=place)
        archive.unlink()
