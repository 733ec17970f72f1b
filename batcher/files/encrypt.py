"""Content to an OpenPGP message as it is written: nothing of it touches a disk.

The work is done by `openpgp` in a process of its own. A second thread passes the message on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from batcher.files import openpgp
from batcher.files.packing import Envelope
from batcher.files.sink import CannotBeWritten, Out

#: Passed on at once.
CHUNK = 64 * 1024
#: Seconds for one file, as long as its transfer may take: a process that hangs is ended.
WITHIN = 900.0
#: Of what went wrong, what a person reads.
MAX_TOLD = 300


@contextmanager
def encrypting(out: Out, envelope: Envelope) -> Iterator[Out]:
    """What to write the content to; complete when the context is left without an error.

    `out` is written to by another thread. What it raises is raised here; CannotBeWritten where the library
    refuses.
    """
    process = _Process(out)
    try:
        process.write(
            openpgp.order(
                envelope.recipients, envelope.signing_key, envelope.passphrase, armor=envelope.armor
            )
        )
        yield process
        process.finish()
    finally:
        process.end()


class _Process:
    def __init__(self, out: Out) -> None:
        self._out = out
        self._failed: BaseException | None = None
        # Isolated: neither the folder we run in nor variables lead it to other code.
        self._child = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", openpgp.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("RUST_")},
        )
        self._clock = threading.Timer(WITHIN, self._child.kill)
        self._clock.daemon = True
        self._clock.start()
        self._thread = threading.Thread(target=self._pass_on, name="encrypted", daemon=True)
        self._thread.start()

    def write(self, content: bytes, /) -> int:
        assert self._child.stdin is not None
        try:
            return self._child.stdin.write(content)
        except BrokenPipeError:
            raise self._why() from None

    def finish(self) -> None:
        """The whole message is passed on."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            raise self._why() from None
        self._thread.join()
        if self._failed is not None or self._child.wait() != 0:
            raise self._why()

    def end(self) -> None:
        """Nothing of it is left, wherever it stood."""
        self._clock.cancel()
        self._clock.join()
        self._child.kill()
        self._thread.join()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _why(self) -> BaseException:
        self._thread.join()
        if self._failed is not None:
            return self._failed
        assert self._child.stderr is not None
        told = self._child.stderr.read(MAX_TOLD).decode(errors="replace").strip().partition("\n")[0]
        return CannotBeWritten(f"OpenPGP encryption failed: {told or 'its process was ended'}")

    def _pass_on(self) -> None:
        assert self._child.stdout is not None
        try:
            while chunk := self._child.stdout.read(CHUNK):
                self._out.write(chunk)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever writes
            self._failed = error
            self._child.kill()
