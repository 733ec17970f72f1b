"""The mail model's steps on claim.lua, advance.lua, the files that are kept, and what a mailing makes of its window."""

import hashlib
from contextlib import suppress

from batcher import artefacts, kept
from batcher.artefacts import Fields, Pinned
from batcher.channels import Hold
from batcher.deliver_mail import _field, _Mailing, _message, first_byte_left
from batcher.window import State as Stands
from batcher.window import WindowState
from batcher.windows import Gone
from schemas.connection import EmailConnection
from schemas.delivery import Outcome
from tests.invariants.drive import Bench, same
from tests.invariants.drive_windows import CONNECTION, WindowBench
from tests.invariants.explore import Label
from tests.invariants.mail_state import FILES, MAILS, RECIPIENTS, State, Window

PEOPLE = tuple(f"person-{n}@advertiser.example" for n in range(RECIPIENTS))
STATES = {
    "": "",
    Stands.SENDING: "S",
    Outcome.DELIVERED: "D",
    Outcome.UNCERTAIN: "U",
    Outcome.REJECTED: "R",
}


def connection(*, hold: bool) -> EmailConnection:
    given = {
        "name": CONNECTION,
        "kind": "email",
        "recipients": PEOPLE,
        "on_uncertain": "hold" if hold else "resend",
        "subject": "Referrals",
        "schedule": {"cron": "0 8 * * *", "zone": "UTC"},
        "fields": ["referral_id"],
        "file": {"split": {"rows": 1}},
    }
    return EmailConnection.model_validate(given)


class MailDriver:
    def __init__(self, bench: Bench, url: str, *, hold: bool = True) -> None:
        self._on, self._bench = WindowBench(bench, url), bench
        self._connection = connection(hold=hold)
        self._turns: list[_Mailing | None] = [None, None]
        self._made: list[list[Pinned]] = [[], []]
        #: What was sent, by mail.
        self._got: list[set[bytes]] = [set() for _ in range(MAILS)]

    def close(self) -> None:
        self._on.close()

    def step(self, label: Label, before: State, after: State) -> None:
        match label:
            case ("crash",):
                self._bench.crash()
                self._turns = [None, None]
            case ("left", int(_)):
                pass  # the mail system's own affair
            case ("die", int(i)):
                self._turns[i] = None
            case ("claim", int(i)):
                window = self._on.claim(i)
                assert window is not None
                self._turns[i] = self._mailing(window)
                makes = window.state is not Stands.ENDED and not first_byte_left(window.fields)
                same("whether files are made", makes, after.workers[i].stage == "make")
            case (str(step), int(i)):
                turn = self._turns[i]
                assert turn is not None
                with suppress(Gone):
                    self._step(step, i, turn, before, after)
                if after.workers[i].view is None:
                    self._turns[i] = None
            case _:
                raise AssertionError(f"the model has a step unknown here: {label}")
        self._compare(after)

    def _mailing(self, window: WindowState) -> _Mailing:
        return _Mailing(self._on.sending, window, self._connection)

    def _step(self, step: str, i: int, turn: _Mailing, before: State, after: State) -> None:
        at, windows = before.workers[i].at, self._on.windows
        recipient, number = PEOPLE[at % RECIPIENTS], at // RECIPIENTS + 1
        field = _field(recipient, number)
        match step:
            case "make":
                self._make(i, turn.window)
            case "tell":
                self._turns[i] = self._mailing(self._tell(i, turn.window))
            case "died sending" | "pass":
                same("whether it is awaited", turn._awaited(recipient, field), False)
            case "gone":
                same("whether it is held", isinstance(turn._attachments(number), Hold), True)
            case "intent" | "refused" | "busy":
                same("whether it is awaited", turn._awaited(recipient, field), True)
                same("whether it is held", isinstance(turn._attachments(number), Hold), False)
                told = {"intent": Stands.SENDING, "refused": Outcome.REJECTED, "busy": ""}[step]
                turn._advance({field: told}, durable=step != "busy")
            case "data":
                found = turn._attachments(number)
                if not isinstance(found, Hold):  # then memory has what somebody has forgotten meanwhile
                    raw = _message(self._on.sending, turn.window, self._connection, recipient, number, found)
                    self._got[at].add(raw)
                same("copies that differ", max(0, len(self._got[at]) - 1), 0)
            case "cut before the end":
                turn._advance({field: ""}, durable=False)
            case "answered":
                turn._advance({field: Outcome.DELIVERED}, durable=True)
            case "no answer":
                turn._uncertain(field, "no answer")
            case "end":
                self._end(turn, ended=after.workers[i].stage == "close", trouble=before.workers[i].trouble)
            case "close":
                kept.forget(windows, turn.window)
                windows.release(
                    turn.window, {"state": Stands.CLOSED, **artefacts.forgotten(turn.window.fields)}
                )
            case "all seen":
                pass
            case _:
                raise AssertionError(f"the model has a step unknown here: {step}")

    def _make(self, i: int, window: WindowState) -> None:
        """Each making comes out otherwise: it names the token."""
        kept.forget(self._on.windows, window)
        self._made[i] = []
        for number in range(1, FILES + 1):
            content = b"%d %d" % (window.token, number)
            digest = hashlib.sha256(content).hexdigest()
            self._made[i].append(Pinned(f"file-{number}.csv", "", 1, len(content), digest, digest))
            kept.keep(self._on.windows, window, number, content)

    def _tell(self, i: int, window: WindowState) -> WindowState:
        fields: Fields = {"state": Stands.SENDING, "rows": FILES}
        for number, file in enumerate(self._made[i], 1):
            fields |= artefacts.pin(number, file)
        try:
            return kept.tell(self._on.windows, window, fields)
        except Gone:
            kept.discard(self._on.windows, window, FILES)
            raise

    def _end(self, turn: _Mailing, *, ended: bool, trouble: bool) -> None:
        windows, all_refused = self._on.windows, turn._refused() == RECIPIENTS
        if all_refused and not trouble:
            told = turn.window.fields.items()
            cleared: Fields = {
                name: "" for name, state in told if name.startswith("to:") and state == Outcome.REJECTED
            }
            turn._advance(cleared, durable=False)
        if ended or not (trouble or all_refused):
            turn._advance({"state": Stands.ENDED}, durable=True)
            return
        fields: Fields = {}
        if not first_byte_left(turn.window.fields):
            kept.forget(windows, turn.window)
            fields = {"state": Stands.SEALED, "files": 0}
        windows.release(turn.window, fields)

    def _compare(self, after: State) -> None:
        window, model = self._on.state(), after.redis.window
        same("state", str(window.state), model.state)
        same("token", self._on.number_of(window.token), model.token)
        mails = tuple(
            STATES[window.fields.get(_field(PEOPLE[n % RECIPIENTS], n // RECIPIENTS + 1), "")]
            for n in range(MAILS)
        )
        same("mails", mails, model.mails)
        same("uncertain", int(window.fields.get("uncertain", 0)) > 0, model.uncertain)
        if model.state != "CLOSED":
            same("making told of", self._told(window), model.made)
        expected = {(one.key, number, one.told) for one in after.redis.kept for number in range(1, FILES + 1)}
        same("kept", self._kept(), expected)

    def _told(self, window: WindowState) -> int:
        has = window.fields.get("files", "0") != "0"
        return self._on.number_of(window.fields["kept"]) if has else Window().made

    def _kept(self) -> set[tuple[int, int, bool]]:
        """Token, number, and whether it stays."""
        names = [name.decode() for name in self._bench.read("KEYS", "*:file:*")]
        found = set()
        for name in names:
            token, number = name.rsplit(":", 2)[1:]
            stays = self._bench.read("PTTL", name) < 0
            found.add((self._on.number_of(token), int(number), stays))
        return found
