"""CRMs that answer wrongly, late, for ever or not at all: the same key and bytes, a bound, and no neighbour harmed."""

from __future__ import annotations

import asyncio
import gzip
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest

from consumer.crm.answers import MAX_RETRY_AFTER_S
from consumer.keys import Role
from consumer.retry import JITTER, MAX_JITTER_S
from schemas.delivery import Outcome
from tests.support import oracle
from tests.support.deployment import http_connection
from tests.support.kafka import Kafka
from tests.support.odd_crm import Answering, Asked, OddCrm, odd_crm
from tests.support.push_entry import Pushing, key_of, made, pushing

#: Seconds between the attempts of a connection in this file, by the service's clock.
STEP = 10.0
SCHEDULE = f"[{', '.join(['10'] * 30)}]"
#: Of the connections whose schedule is to be used up.
SHORT = 3
#: Longer than an open breaker waits before it asks again.
STRIDE = 130.0
#: What a request to a receiver that does not answer may take.
TIMEOUT_S = 1
#: Between a request's arrival and when its answer was counted, on a busy machine.
SLACK_S = 10.0

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def answer(status: int, *headers: bytes, body: bytes = b"{}") -> bytes:
    lines = (b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def first(*answers: bytes, then: bytes = OK) -> Answering:
    """These in turn, and `then` ever after."""

    async def write(_: Asked, before: int, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(answers[before] if before < len(answers) else then)
        await writer.drain()
        return True

    return write


#: Referrals whose answers are lost.
ONES = 10

BASE = 1_772_366_400.0  # the receiver's own clock: it need not agree with ours
#: What is asked for, the seconds that count; None: the schedule alone does.
RETRY_AFTER: dict[str, tuple[bytes, float | None]] = {
    "seconds": (b"120", 120.0),
    "fixdate": (formatdate(BASE + 300, usegmt=True).encode(), 300.0),
    "rfc850": (b"Sunday, 01-Mar-26 12:05:00 GMT", 300.0),
    "asctime": (b"Sun Mar  1 12:05:00 2026", 300.0),
    "ten-years": (b"315360000", MAX_RETRY_AFTER_S),
    "far-date": (b"Sat, 01 Mar 2036 12:00:00 GMT", MAX_RETRY_AFTER_S),
    "digits": (b"9" * 400, MAX_RETRY_AFTER_S),
    "zero": (b"0", None),
    "past": (b"Sun, 01 Mar 2026 11:00:00 GMT", None),
    "junk": (b"soon", None),
    "float": (b"1e14", None),
    "not-ascii": ("\u0663".encode(), None),
}
CONFLICT, REFUSED, REUSED, STICKY = "conflict", "refused", "reused", "sticky"
HOSTILE = ("loris", "drip", "gigabyte", "bomb", "redirect")
LOST, CALM = "lost", "calm"


@dataclass
class Trouble:
    push: Pushing
    odd: OddCrm
    #: Bytes written to a peer that asked for none of them.
    written: Counter[str]


@pytest.fixture(scope="module")
def trouble(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    with (
        pushing(tmp_path_factory.mktemp("trouble"), kafka.bootstrap) as push,
        odd_crm(push.clock) as odd,
    ):
        found = Trouble(push, odd, Counter())
        for account in (*RETRY_AFTER, CONFLICT, REFUSED, REUSED, *HOSTILE):
            connect(found, account, retry_seconds=SCHEDULE, timeout=str(TIMEOUT_S), key_ttl="864000")
        connect(found, STICKY, retry_seconds=f"[{', '.join(['10'] * SHORT)}]")
        push.connect(LOST, retry_seconds=SCHEDULE)
        push.connect(CALM)
        push.running.init()
        push.start("push")
        push.wait_shared("push")
        yield found


def connect(trouble: Trouble, account: str, **options: str) -> None:
    text = http_connection(trouble.push.crm, f"{account}-crm", **options)
    text = text.replace(f":{trouble.push.crm.port}/", f":{trouble.odd.port}/")
    trouble.push.running.write(account, f"account: {account}\nconnections:\n{text}")


def attempts(push: Pushing, outcome: str) -> float:
    return push.metric(f'referral_push_attempts_total{{outcome="{outcome}"}}')


def hurry(push: Pushing, done: Callable[[], bool], what: str) -> None:
    """The clock runs until it is so."""

    def looked() -> bool:
        push.clock.jump(STRIDE)
        return done()

    push.wait(looked, what)


def one_request(requests: list[Asked], key: str) -> None:
    """All of them the same one."""
    assert {(one.key, one.body) for one in requests} == {(key, requests[0].body)}


@pytest.mark.case(19)
def test_applied_and_then_reset_it_is_one_effect(trouble: Trouble) -> None:
    push = trouble.push
    unknown, ambiguous = attempts(push, "unknown"), push.metric('referral_ambiguous_total{sink="crm"}')
    push.modes({f"/{LOST}-crm": "lost"})
    events = [made(LOST) for _ in range(ONES)]
    push.publish(events)
    wanted = set(map(key_of, events))
    hurry(push, lambda: {one["key"] for one in push.effects(LOST)} == wanted, "each was applied, unanswered")
    push.modes({f"/{LOST}-crm": "ok"})
    hurry(push, lambda: push.count(LOST) == 0, "each has its answer")
    verdict = push.verdict(LOST, [event["referral_id"] for event in events])
    assert verdict == oracle.Verdict(ONES, ONES, 0, 0, repeats=verdict.repeats)
    assert verdict.repeats >= ONES
    bodies = {(one["key"], one["sha256"]) for one in push.requests(LOST)}
    assert len(bodies) == ONES
    assert {receipt.outcome for receipt in push.receipts(LOST, ONES)} == {Outcome.DELIVERED}
    assert attempts(push, "unknown") - unknown >= ONES
    assert push.metric('referral_ambiguous_total{sink="crm"}') - ambiguous >= ONES


@pytest.mark.case(20)
def test_retry_after_in_every_form_is_kept_and_clamped(trouble: Trouble) -> None:
    push, odd = trouble.push, trouble.odd
    date = b"Date: " + formatdate(BASE, usegmt=True).encode()
    for form, (value, _) in RETRY_AFTER.items():
        odd.answers[f"/{form}-crm"] = first(answer(503, b"Retry-After: " + value, date))
    events = {form: made(form) for form in RETRY_AFTER}
    push.publish(list(events.values()))
    push.wait(lambda: all(odd.of(f"/{form}-crm") for form in RETRY_AFTER), "each was refused once")
    asked = {form: odd.of(f"/{form}-crm")[0].at for form in RETRY_AFTER}

    def put_off(form: str) -> bool:
        dues = list(push.schedule([form])[form].values())
        return bool(dues) and dues[0] > asked[form] + STEP - 1

    push.wait(lambda: all(map(put_off, RETRY_AFTER)), "each is put off")
    for form, (_, seconds) in RETRY_AFTER.items():
        (due,) = push.schedule([form])[form].values()
        waits = max(seconds or 0.0, STEP)
        most = waits + min(JITTER * waits, MAX_JITTER_S) + SLACK_S
        assert waits - 0.1 <= due - asked[form] <= most, form
    for reached in (STEP, 120.0, 300.0, MAX_RETRY_AFTER_S):
        # What asked for longer is not asked a moment earlier.
        longer = [form for form, (_, seconds) in RETRY_AFTER.items() if (seconds or STEP) > reached]
        sooner = [form for form in RETRY_AFTER if form not in longer]
        begun = min(asked.values())
        most = reached + min(JITTER * reached, MAX_JITTER_S) + SLACK_S
        push.clock.jump(max(0.0, begun + most + 1.0 - push.clock()))
        push.wait(lambda forms=sooner: all(push.count(form) == 0 for form in forms), f"those of {reached} s")
        assert [form for form in longer if len(odd.of(f"/{form}-crm")) > 1] == []
    for form, event in events.items():
        requests = odd.of(f"/{form}-crm")
        assert len(requests) == 2
        one_request(requests, key_of(event))


@pytest.mark.case(21)
def test_conflict_refusal_and_an_error_for_ever(trouble: Trouble) -> None:
    push, odd = trouble.push, trouble.odd
    reused = answer(422, body=b'{"title":"Idempotency-Key is already used"}')
    odd.answers |= {
        f"/{CONFLICT}-crm": first(answer(409, body=b'{"error":"a request with this key is in progress"}')),
        f"/{REFUSED}-crm": first(answer(422, body=b'{"error":"no such postal code"}')),
        f"/{REUSED}-crm": first(reused),
        f"/{STICKY}-crm": first(then=answer(500)),
    }
    events = {account: made(account) for account in (CONFLICT, REFUSED, REUSED, STICKY)}
    letters = 'referral_dlq_total{reason="%s"}'
    before = {reason: push.metric(letters % reason) for reason in ("rejected", "exhausted")}
    conflicts = attempts(push, "key_conflict")
    push.publish(list(events.values()))
    hurry(push, lambda: all(push.count(account) == 0 for account in events), "each has its end")
    outcomes = {account: push.receipts(account, 1)[0] for account in events}
    assert {account: (told.outcome, told.status, told.attempts) for account, told in outcomes.items()} == {
        CONFLICT: (Outcome.DELIVERED, 200, 2),
        REFUSED: (Outcome.REJECTED, 422, 1),
        REUSED: (Outcome.REJECTED, 422, 1),
        STICKY: (Outcome.EXHAUSTED, 500, SHORT + 1),
    }
    for account, told in outcomes.items():
        requests = odd.of(f"/{account}-crm")
        assert len(requests) == told.attempts
        one_request(requests, key_of(events[account]))
    # What ReferralDeadLetters and ReferralKeyConflict look at.
    assert push.metric(letters % "rejected") == before["rejected"] + 2
    assert push.metric(letters % "exhausted") == before["exhausted"] + 1
    assert attempts(push, "key_conflict") == conflicts + 1


def peak_mib(push: Pushing) -> int:
    status = Path(f"/proc/{push.running.children['push'].pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


#: Of the whole service, over five hostile receivers: many times what they may make it keep.
MAX_GROWTH_MIB = 64
#: What kernels hold between us and a peer, for each of its connections.
BUFFERED = 16 << 20
EACH = 40


@pytest.mark.case(22)
def test_answers_without_end_are_bounded_and_harm_no_neighbour(trouble: Trouble) -> None:
    push, odd, written = trouble.push, trouble.odd, trouble.written
    bomb = gzip.compress(b"x" * 50_000_000)

    def hostile(start: bytes, more: bytes, pause: float) -> Answering:
        async def write(
            asked: Asked, _: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> bool:
            writer.write(start)
            for _ in range((1 << 30) // len(more)):
                if writer.is_closing() or reader.at_eof():
                    break
                writer.write(more)
                await writer.drain()
                written[asked.path] += len(more)
                await asyncio.sleep(pause)
            return False

        return write

    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"
    odd.answers |= {
        "/loris-crm": hostile(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05),
        "/drip-crm": hostile(large, b"x", 0.05),
        "/gigabyte-crm": hostile(large, b"x" * 65_536, 0.0),
        "/bomb-crm": first(then=answer(200, b"Content-Encoding: gzip", body=bomb)),
        "/redirect-crm": first(then=answer(302, b"Location: /redirect-crm")),
    }
    peak, unknown = peak_mib(push), attempts(push, "unknown")
    paused = push.metric("referral_connections_paused")
    pauses = attempts(push, "pause")
    waited: list[float] = []
    for _ in range(EACH):
        event = made(CALM)
        push.publish([*(made(account) for account in HOSTILE), event])
        begun, key = time.monotonic(), key_of(event)
        push.wait(lambda key=key: any(one["key"] == key for one in push.effects(CALM)), "the calm one's")
        waited.append(time.monotonic() - begun)
    print(
        f"the calm one's: {statistics.median(waited):.3f} s, at most {max(waited):.3f} s; peak {peak_mib(push) - peak} MiB more"
    )
    # It takes milliseconds; behind a hostile one each would wait for a time-out at least.
    assert statistics.median(waited) < TIMEOUT_S / 2
    assert push.count("loris") > 0, "nothing was hostile meanwhile"

    # A status that was read counts, whatever its body does; none is asked for more than once.
    for account in ("drip", "gigabyte", "bomb"):
        hurry(push, lambda account=account: push.count(account) == 0, f"{account} has what it got")
        told = push.receipts(account, EACH)
        assert {(one.outcome, one.attempts) for one in told} == {(Outcome.DELIVERED, 1)}
        assert Counter(one.key for one in odd.of(f"/{account}-crm")).most_common(1)[0][1] == 1
    assert written["/gigabyte-crm"] < EACH * BUFFERED
    # A redirect is followed nowhere: a person must correct the address, and is told.
    push.wait(lambda: push.metric("referral_connections_paused") == paused + 1, "it is paused")
    assert 1 <= len(odd.of("/redirect-crm")) <= 16
    assert push.count("redirect") == EACH
    assert attempts(push, "pause") > pauses
    # Silence ends with the time-out, is known to be unknown, and is asked again with the same key and bytes.
    push.wait(lambda: attempts(push, "unknown") > unknown, "a head without an end is no answer")
    odd.answers["/loris-crm"] = first()
    hurry(push, lambda: push.count("loris") == 0, "it got everything once it is well")
    bodies = {(one.key, one.body) for one in odd.of("/loris-crm")}
    assert len(bodies) == EACH
    assert {one.outcome for one in push.receipts("loris", EACH)} == {Outcome.DELIVERED}
    assert peak_mib(push) - peak < MAX_GROWTH_MIB
    assert push.running.next_offsets(Role.PUSH) == push.published
