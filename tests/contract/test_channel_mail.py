"""Mail through a real relay: what is delivered, what surely is not, and what nobody can know."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batcher.channels import Hold, Retry
from batcher.channels.mail import Fenced, Refused, Relay, Sent, Uncertain, build, for_good, send
from batcher.channels.mime import Attachment
from deploy.embedded.processes import free_port
from tests.support.proxy import proxy
from tests.support.receivers import Receiver, eventually, smtp_receiver

SENDER = "referrals@marketplace.example"
MESSAGE_ID = "<acme-mail-000012.0@marketplace.example>"
DATE = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
ROWS = b"id,name\r\n.1,\xc3\x96zg\xc3\xbcr\r\n.\r\n..\r\n"
MODES = ("550", "551", "451", "421", "552", "data-451", "data-550", "data-552", "data-554", "drop", "hang")
#: For a wait that is expected to end without an answer.
SOON = 1.0
#: What two kernels may hold of a mail that a sender believes on its way.
LARGER_THAN_BUFFERS = 20_000_000


def mail(**changes: object) -> bytes:
    given: dict[str, object] = {
        "message_id": MESSAGE_ID,
        "date": DATE,
        "sender": SENDER,
        "recipient": "ok@acme.example",
        "subject": "Neue Überweisungen — 新しい紹介",
        "text": ".\r\n.hello\n..\nÜber " + "x" * 3_000,
        "html": "<p>.</p>\n.\n<p>" + "y" * 3_000,
        "attachment_name": "Übersicht “März”.csv",
        "attachment": ROWS,
        **changes,
    }
    attached = Attachment(given.pop("attachment_name"), given.pop("attachment"))  # type: ignore[arg-type]
    return build(**given, attachments=[attached])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    modes = (option for mode in MODES for option in ("--mode", f"{mode}@acme.example={mode}"))
    with smtp_receiver(tmp_path_factory.mktemp("inbox"), "--size-limit", "1000000", *modes) as running:
        yield running


def plain(port: int, **changes: object) -> Relay:
    given: dict[str, object] = {
        "timeout": 5.0,
        "starttls": False,
        "final_reply": SOON,
        "hello": "batcher.test",
    }
    return Relay("127.0.0.1", port, **{**given, **changes})  # type: ignore[arg-type]


def yes() -> bool:
    return True


def mails(inbox: Receiver, raw: bytes) -> list[str]:
    """Who got this mail."""
    message_id = message_from_bytes(raw, policy=policy.SMTP)["Message-ID"]
    return [effect["recipient"] for effect in inbox.effects("mail") if effect["message_id"] == message_id]


def unique(name: str) -> bytes:
    return mail(message_id=f"<{name}@marketplace.example>")


def test_a_mail_arrives_as_built(inbox: Receiver) -> None:
    raw = unique("whole")
    sent = send(plain(inbox.port), SENDER, "ok@acme.example", raw, yes)
    assert isinstance(sent, Sent)
    assert "queued as" in sent.reply
    (effect,) = (e for e in inbox.effects("mail") if e["message_id"] == "<whole@marketplace.example>")
    (file,) = effect["files"]
    assert (inbox.folder / "mail" / file).read_bytes() == ROWS


def test_every_line_arrives_as_sent(inbox: Receiver) -> None:
    """Dots at line starts, the longest lines, and a body that does not end in a line break."""
    body = [b".", b"..", b".x", b"", b"." * 998, b"x" * 997 + b".", b"a.", b".end"]
    raw = b"Message-ID: <dots@marketplace.example>\r\n\r\n" + b"\r\n".join(body)
    assert isinstance(send(plain(inbox.port), SENDER, "ok@acme.example", raw, yes), Sent)
    (effect,) = (e for e in inbox.effects("mail") if e["message_id"] == "<dots@marketplace.example>")
    assert effect["sha256"] == sha256(raw + b"\r\n")


def sha256(content: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(content)
    return digest.finalize().hex()


@pytest.mark.case(28)
@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        pytest.param("550", Refused, id="unknown recipient"),
        pytest.param("551", Refused, id="not here"),
        pytest.param("451", Retry, id="greylisted"),
        pytest.param("421", Retry, id="shutting down"),
        pytest.param("552", Hold, id="no room"),
        pytest.param("data-451", Retry, id="not now, after the last byte"),
        pytest.param("data-550", Hold, id="refused after the last byte"),
        pytest.param("data-552", Hold, id="no room, after the last byte"),
        pytest.param("data-554", Hold, id="too big, as OpenSMTPD says it"),
    ],
)
def test_refusals_are_sure(inbox: Receiver, mode: str, ending: type) -> None:
    raw = unique(f"refused.{mode}")
    found = send(plain(inbox.port), SENDER, f"{mode}@acme.example", raw, yes)
    assert isinstance(found, ending)
    assert mode.removeprefix("data-") in found.reason
    assert "@" not in found.reason
    assert mails(inbox, raw) == []


@pytest.mark.case(28)
@pytest.mark.parametrize("mode", ["drop", "hang"])
def test_no_answer_to_the_end_of_the_data_is_uncertain(inbox: Receiver, mode: str) -> None:
    raw = unique(f"uncertain.{mode}")
    assert isinstance(send(plain(inbox.port), SENDER, f"{mode}@acme.example", raw, yes), Uncertain)
    assert mails(inbox, raw) == [f"{mode}@acme.example"]


def test_before_data_comes_first_and_decides(inbox: Receiver) -> None:
    raw = unique("fenced")
    calls: list[int] = []

    def no() -> bool:
        calls.append(len(mails(inbox, raw)))
        return False

    def broken() -> bool:
        raise LookupError("the store is away")

    assert send(plain(inbox.port), SENDER, "ok@acme.example", raw, no) == Fenced()
    assert calls == [0]
    with pytest.raises(LookupError):
        send(plain(inbox.port), SENDER, "ok@acme.example", raw, broken)
    assert isinstance(send(plain(inbox.port), SENDER, "550@acme.example", raw, broken), Refused)
    assert mails(inbox, raw) == []


def test_too_big_is_known_before_anything_is_sent(inbox: Receiver) -> None:
    raw = mail(message_id="<big@marketplace.example>", attachment=b"x" * 900_000)
    held = send(plain(inbox.port), SENDER, "ok@acme.example", raw, lambda: pytest.fail("sent"))
    assert isinstance(held, Hold)
    assert "1000000" in held.reason


def test_a_line_cut_anywhere_delivers_nothing(inbox: Receiver) -> None:
    """Before DATA it is known. Within it, only as far as the mail is larger than what the kernels hold."""
    raw = unique("cut")
    with proxy(inbox.port) as line:
        assert isinstance(send(plain(line.port), SENDER, "550@acme.example", raw, yes), Refused)
        before_data = line.passed
        for cut in [*range(1, before_data, 10), *range(before_data, before_data + len(raw), 1_000)]:
            line.cut_after = cut
            reached: list[bool] = []
            found = send(plain(line.port), SENDER, "ok@acme.example", raw, lambda: not reached.append(True))  # noqa: B023
            assert isinstance(found, Retry if not reached else Retry | Uncertain), (cut, found)
        assert mails(inbox, raw) == []
        line.cut_after = None
        assert isinstance(send(plain(line.port), SENDER, "ok@acme.example", raw, yes), Sent)
        assert mails(inbox, raw) == ["ok@acme.example"]


def test_a_large_mail_cut_in_its_middle_is_surely_not_delivered(tmp_path: Path) -> None:
    raw = mail(attachment=b"x" * LARGER_THAN_BUFFERS)
    with smtp_receiver(tmp_path) as running, proxy(running.port) as line:
        line.cut_after = 1_000_000
        assert isinstance(send(plain(line.port), SENDER, "ok@acme.example", raw, yes), Retry)
        assert running.effects("mail") == []


def test_a_frozen_relay_is_not_waited_for(tmp_path: Path) -> None:
    with smtp_receiver(tmp_path, port=free_port()) as running:
        relay = plain(running.port, timeout=SOON)
        raw = mail(attachment=b"x" * LARGER_THAN_BUFFERS)

        def freeze() -> bool:
            running.freeze()
            return True

        begun = time.monotonic()
        assert isinstance(send(relay, SENDER, "ok@acme.example", raw, freeze), Retry)
        assert isinstance(send(relay, SENDER, "ok@acme.example", raw, yes), Retry)
        # Encoding so much twice takes a busy machine longer than the waits do.
        assert time.monotonic() - begun < 30 * SOON
        running.kill()
        assert isinstance(send(relay, SENDER, "ok@acme.example", raw, yes), Retry)
        running.restart()
        assert isinstance(
            send(plain(running.port, final_reply=20.0), SENDER, "ok@acme.example", raw, yes), Sent
        )
        eventually(lambda: len(running.effects("mail")) == 1, "one mail")


@contextmanager
def scripted(answers: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """A relay whose answer to each line is scripted; None closes the connection."""

    def run() -> None:
        while True:
            try:
                call, _ = listener.accept()
            except OSError:
                return
            with call, call.makefile("rb") as lines, suppress(OSError):
                call.sendall(b"220 x\r\n")
                for line in lines:
                    answer = answers(line.strip())
                    if answer is None:
                        break
                    call.sendall(answer)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@pytest.mark.case(28)
@pytest.mark.parametrize(
    ("last", "ending"),
    [
        pytest.param(b"250-OK\r\n250 queued for ok@acme.example\r\n", Sent, id="two lines"),
        pytest.param(b"250\r\n", Sent, id="no text"),
        pytest.param(b"299 fine\r\n", Sent, id="an odd yes"),
        pytest.param(b"354 more\r\n", Uncertain, id="an answer to something else"),
        pytest.param(b"nonsense\r\n", Uncertain, id="no answer at all"),
        pytest.param(b"x" * 20_000 + b"\r\n", Uncertain, id="an endless line"),
        pytest.param(b"\xff\xfe\r\n", Uncertain, id="bytes"),
        pytest.param(None, Uncertain, id="closed"),
        pytest.param(b"421 4.3.0 shutting down\r\n", Retry, id="closing, but says so"),
    ],
)
def test_strange_answers_to_the_end_of_the_data(last: bytes | None, ending: type) -> None:
    def answers(line: bytes) -> bytes | None:
        if line == b".":
            return last
        return (
            b"354 go\r\n"
            if line == b"DATA" or line == b"data"
            else b"250 x\r\n"
            if line[4:5] in {b" ", b":"}
            else b""
        )

    with scripted(answers) as port:
        found = send(plain(port), SENDER, "ok@acme.example", b"A: b\r\n\r\nc\r\n", yes)
    assert isinstance(found, ending), found
    if isinstance(found, Sent):
        assert "acme" not in found.reply


def test_nobody_there_or_nobody_we_understand() -> None:
    raw = mail()
    relay = plain(free_port(), timeout=SOON)
    assert isinstance(send(relay, SENDER, "ok@acme.example", raw, yes), Retry)
    lost = dataclasses.replace(relay, host="no-such-host.invalid")
    assert isinstance(send(lost, SENDER, "ok@acme.example", raw, yes), Retry)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        relay = plain(silent.getsockname()[1], timeout=SOON)
        assert isinstance(send(relay, SENDER, "ok@acme.example", raw, yes), Retry)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and <name>.pem and <name>.key for the names 127.0.0.1 and elsewhere."""
    folder = tmp_path_factory.mktemp("tls")
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate("test authority", ca_key, "test authority", ca_key, is_ca=True)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for name in ("127.0.0.1", "elsewhere.example"):
        key = ec.generate_private_key(ec.SECP256R1())
        made = certificate(name, key, "test authority", ca_key, is_ca=False)
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(key.private_bytes(*form))
    return folder


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    try:
        other: x509.GeneralName = x509.IPAddress(ip_address(name))
    except ValueError:
        other = x509.DNSName(name.replace(" ", "-"))
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([other]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def test_starttls_and_login(authority: Path, tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text(json.dumps({"batcher": "correct horse"}))
    options = ("--certificate", str(authority / "127.0.0.1.pem"), "--key", str(authority / "127.0.0.1.key"))
    with smtp_receiver(tmp_path, *options, "--users", str(tmp_path / "users.json")) as running:
        login = {"username": "batcher", "password": "correct horse"}
        relay = plain(running.port, starttls=True, ca=authority / "ca.pem", **login)
        assert "horse" not in repr(relay)
        assert isinstance(send(relay, SENDER, "ok@acme.example", mail(), yes), Sent)
        for wrong in (
            dataclasses.replace(relay, password="guess"),
            dataclasses.replace(relay, password="nicht-ASCII-ö"),
            dataclasses.replace(relay, ca=None),
            dataclasses.replace(relay, ca=authority / "missing.pem"),
            dataclasses.replace(relay, ca=authority / "127.0.0.1.key"),
        ):
            held = send(wrong, SENDER, "ok@acme.example", mail(), lambda: pytest.fail("sent"))
            assert isinstance(held, Hold), held
            assert "guess" not in held.reason
        assert len(running.effects("mail")) == 1


def test_starttls_with_another_name(authority: Path, tmp_path: Path) -> None:
    name = authority / "elsewhere.example"
    with smtp_receiver(tmp_path, "--certificate", f"{name}.pem", "--key", f"{name}.key") as running:
        relay = plain(running.port, starttls=True, ca=authority / "ca.pem")
        held = send(relay, SENDER, "ok@acme.example", mail(), lambda: pytest.fail("sent"))
    assert isinstance(held, Hold)
    assert "certificate" in held.reason


def test_starttls_that_is_not_offered(inbox: Receiver, authority: Path) -> None:
    relay = plain(inbox.port, starttls=True, ca=authority / "ca.pem")
    held = send(relay, SENDER, "ok@acme.example", mail(), lambda: pytest.fail("sent"))
    assert isinstance(held, Hold)
    assert "STARTTLS" in held.reason


def test_no_login_in_clear() -> None:
    with pytest.raises(ValueError, match="starttls"):
        plain(25, username="batcher", password="x")


def test_built_again_it_is_the_same() -> None:
    assert mail() == mail()
    assert mail() != mail(message_id="<other@marketplace.example>")


def test_what_was_built_reads_back() -> None:
    raw = mail()
    assert raw.isascii()
    assert max(len(line) for line in raw.split(b"\r\n")) < 998
    assert b"\n" not in raw.replace(b"\r\n", b"")
    read = message_from_bytes(raw, policy=policy.SMTP)
    assert read["Subject"] == "Neue Überweisungen — 新しい紹介"
    assert read["Message-ID"] == MESSAGE_ID
    assert read["Date"].datetime == DATE
    assert [str(read["From"]), str(read["To"])] == [SENDER, "ok@acme.example"]
    (file,) = read.iter_attachments()
    assert file.get_filename() == "Übersicht “März”.csv"
    assert file.get_payload(decode=True) == ROWS
    text, html = read.get_body(("plain",)), read.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().endswith("x" * 3_000 + "\r\n") or text.get_content().endswith(
        "x" * 3_000 + "\n"
    )
    assert "y" * 3_000 in html.get_content()


def test_no_part_ends_early() -> None:
    boundary = message_from_bytes(mail(), policy=policy.SMTP).get_boundary()
    assert boundary is not None
    hostile = f"--{boundary}\r\n--{boundary}--\r\n"
    read = message_from_bytes(
        mail(text=hostile, html=hostile, attachment=hostile.encode()), policy=policy.SMTP
    )
    (file,) = read.iter_attachments()
    assert file.get_payload(decode=True) == hostile.encode()
    assert base64.b64encode(hostile.encode())[:40] in mail(attachment=hostile.encode())


@pytest.mark.parametrize(
    "poison",
    ["x\r\nBcc: eve@example.com", "x\nBcc: eve@example.com", "x\r", "x\x00", "x\u2028y", "x\x85y", "\x0b"],
)
@pytest.mark.parametrize("field", ["subject", "recipient", "sender", "attachment_name", "message_id"])
def test_nothing_can_add_a_header(field: str, poison: str) -> None:
    poisoned = {
        "recipient": f"a@b.example{poison}",
        "sender": f"a@b.example{poison}",
        "message_id": f"<a{poison}@b>",
    }
    with pytest.raises(ValueError, match=r"mail"):
        mail(**{field: poisoned.get(field, poison)})


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "a",
        "a@b.example, c@d.example",
        "Eve <a@b.example>",
        "a@b.example\r\nRCPT TO:<c@d.example>",
        "ü@b.example",
        "a b@c.example",
    ],
)
def test_one_recipient_is_one_address(recipient: str) -> None:
    with pytest.raises(ValueError, match="address"):
        mail(recipient=recipient)
    with pytest.raises(ValueError, match="address"):
        send(plain(1), SENDER, recipient, mail(), yes)


@pytest.mark.parametrize("raw", [b"A: b\n\nc", b"A: b\r\n\r\nc\r\n.\nc", b"A: b\r\n\r\nc\r.\r\n"])
def test_bare_line_ends_are_not_sent(raw: bytes) -> None:
    with pytest.raises(ValueError, match="CRLF"):
        send(plain(1), SENDER, "ok@acme.example", raw, yes)


@pytest.mark.parametrize(
    ("code", "reply", "expected"),
    [
        pytest.param(550, b"5.1.1 user unknown", True, id="unknown"),
        pytest.param(550, b"no such user", True, id="unknown, without an enhanced code"),
        pytest.param(551, b"not local", True, id="not here"),
        pytest.param(552, b"5.2.2 mailbox full", True, id="full"),
        pytest.param(552, b"5.3.4 message too big", False, id="too big"),
        pytest.param(550, b"5.7.1 relaying denied", False, id="we are refused"),
        pytest.param(554, b"5.7.1 rejected", False, id="policy"),
        pytest.param(450, b"4.2.1 try later", False, id="for now"),
    ],
)
def test_whether_a_mailbox_is_refused_for_good(code: int, reply: bytes, expected: bool) -> None:
    assert for_good(code, reply) is expected
