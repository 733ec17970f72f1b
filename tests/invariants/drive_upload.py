"""The upload model's steps on claim.lua, advance.lua, and the steps of an upload over a session with a server."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress

from batcher import artefacts
from batcher.artefacts import Pinned
from batcher.channels import Retry
from batcher.channels.line import Trouble
from batcher.channels.resolution import Renamed, Uploaded
from batcher.channels.upload import Session, path_in
from batcher.deliver_upload import _Transfer
from batcher.window import State as Stands
from batcher.windows import Gone
from schemas.connection import SftpConnection
from tests.invariants.drive import Bench, same
from tests.invariants.drive_windows import CONNECTION, WindowBench, part_of
from tests.invariants.explore import Label
from tests.invariants.model_upload import begun
from tests.invariants.upload_state import FILES, FOREIGN, Part, State

STRANGERS = b"somebody else's"


class Server:
    """A server's folder, and a line to it: implements `channels.upload.Client`."""

    lossy = False
    chunk = 1 << 10
    directory = "in"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.loses_reply = False

    @property
    def target(self) -> "Server":
        return self

    def path(self, name: str) -> str:
        return path_in(self.directory, name)

    def create(self, path: str) -> bytes:
        assert path not in self.files, "a name of ours is used twice"
        self.files[path] = b""
        return path.encode()

    def replace(self, path: str) -> bytes:
        raise AssertionError(f"nothing here replaces {path}")

    def write(self, handle: bytes, offset: int, content: bytes) -> None:
        assert len(self.files[handle.decode()]) == offset
        self.files[handle.decode()] += content

    def finish(self, handle: bytes) -> None:
        assert handle.decode() in self.files

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    shown = size

    def has_folder(self, path: str) -> bool:
        return path == self.directory

    def rename(self, old: str, new: str) -> None:
        assert new not in self.files, "renamed over a file"
        self.files[new] = self.files.pop(old)
        if self.loses_reply:
            raise Trouble(Retry("the line was cut"))

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def names(self, folder: str) -> list[str]:
        return [path.removeprefix(f"{folder}/") for path in self.files]

    def read(self, path: str) -> Iterator[bytes]:
        yield self.files[path]


def connection(edit: int) -> SftpConnection:
    """As it was, or edited."""
    given = {
        "name": CONNECTION,
        "kind": "sftp",
        "host": "sftp.example.com",
        "username": "us",
        "password": "${env:SFTP_PASSWORD}",
        "host_keys": ["SHA256:" + "A" * 43],
        "directory": Server.directory,
        "timeout": 5.0 + edit,
        "schedule": {"cron": "0 8 * * *", "zone": "UTC"},
        "fields": ["referral_id"],
        "file": {"sidecar": True, "split": {"rows": 1}},
    }
    return SftpConnection.model_validate(given)


def _name(file: int) -> str:
    return f"file-{file}"


class UploadDriver:
    def __init__(self, bench: Bench, url: str) -> None:
        self._on, self._bench = WindowBench(bench, url), bench
        self._server = Server()
        self._session = Session(self._server)
        self._turns: list[_Transfer | None] = [None, None]
        self._uploaded: list[Uploaded | None] = [None, None]
        self._connections = connection(0), connection(1)

    def close(self) -> None:
        self._on.close()

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("edit",):
                pass  # whoever claims next sees it
            case ("foreign comes",):
                self._server.files[self._server.path(_name(FOREIGN))] = STRANGERS
            case ("foreign goes",):
                del self._server.files[self._server.path(_name(FOREIGN))]
            case ("taken away", int(n)):
                del self._server.files[self._server.path(_name(n))]
            case ("crash",):
                self._bench.crash()
                self._turns = [None, None]
            case ("die", int(i)):
                self._turns[i] = None
            case ("claim", int(i)):
                self._claim(i, before, after)
            case (str(step), int(i), *rest):
                with suppress(Gone):
                    self._step(step, i, before, rest)
                if after.workers[i].view is None:
                    self._turns[i] = None
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        self._compare(after)

    def _claim(self, i: int, before: State, after: State) -> None:
        window = self._on.claim(i)
        assert window is not None
        if after.redis.number == 1:
            made_with = self._connections[before.edit]
            self._turns[i] = _Transfer(self._on.sending, window, made_with, self._session)

    def _step(self, step: str, i: int, before: State, rest: list[str | int]) -> None:
        turn, worker = self._turns[i], before.workers[i]
        assert turn is not None
        assert worker.view is not None
        windows = self._on.windows
        match step:
            case "upload":
                file, made = len(begun(worker, worker.view)), worker.made
                content = b"%d %d" % (file, made)
                found = turn._put(_name(file), lambda out: out.write(content))
                assert isinstance(found, Uploaded)
                self._uploaded[i] = found
            case "pin":
                assert worker.holds is not None
                self._pin(turn, self._uploaded[i], worker.holds)
            case "sweep first":
                turn._sweep()
            case "name":
                self._give_name(turn, worker.view.delivered.index(False), str(rest[0]))
            case "note":
                fields = artefacts.delivered(worker.view.delivered.index(False) + 1)
                turn.window = windows.advance(turn.window, fields, durable=False)
            case "end":
                turn._sweep()
                turn.window = windows.advance(turn.window, {"state": Stands.ENDED}, durable=True)
            case "close":
                forgotten = artefacts.forgotten(turn.window.fields)
                windows.release(turn.window, {"state": Stands.CLOSED, **forgotten})
            case _:
                raise AssertionError(f"the model has a step unknown here: {step}")

    def _pin(self, turn: _Transfer, found: Uploaded | None, holds: Part) -> None:
        assert found is not None
        last = holds.file == FILES - 1
        following = None if last else holds.file + 1
        plain = hashlib.sha256(found.name.encode()).hexdigest()
        file = Pinned(
            _name(holds.file), found.name, 1, found.size, found.sha256, plain, following, sidecar=last
        )
        turn._pin(file, {}, last=last)

    def _give_name(self, turn: _Transfer, n: int, how: str) -> None:
        file = artefacts.pinned(turn.window.fields)[n]
        self._server.loses_reply = how == "reply lost"
        waits = self._server.path(file.part) in self._server.files
        named = turn._name(file)
        self._server.loses_reply = False
        same("whether it waited for its name", waits, how != "was renamed")
        known = isinstance(named, Retry if how == "reply lost" else Renamed)
        same("whether its outcome is known", known, True)

    def _compare(self, after: State) -> None:
        window, redis = self._on.state(), after.redis
        opened = redis.number > 1
        same("number", window.number, redis.number)
        same("state", window.state, Stands.CLAIMED if opened else redis.state)
        same("token", self._on.number_of(window.token), redis.token)
        if redis.state != "CLOSED":
            pinned = tuple(self._part(file.part, file.name) for file in artefacts.pinned(window.fields))
            same("pinned", pinned, tuple((part.token, part.file) for part in redis.pinned))
            delivered = tuple(artefacts.is_delivered(window.fields, n + 1) for n in range(FILES))
            same("delivered", delivered, redis.delivered)
        files = self._server.files.items()
        parts = {(*found, content) for path, content in files if (found := part_of(path)) is not None}
        there = {(self._on.number_of(token), file, content) for token, file, content in parts}
        same("parts", there, {(one.token, one.file, b"%d %d" % (one.file, one.made)) for one in after.parts})
        for n, made in enumerate(after.final):
            content = None if made is None else STRANGERS if made < 0 else b"%d %d" % (n, made)
            same("final", self._server.files.get(self._server.path(_name(n))), content)

    def _part(self, part: str, name: str) -> tuple[int, int]:
        found = part_of(part)
        assert found is not None
        same("name", name, _name(found[1]))
        return self._on.number_of(found[0]), found[1]
