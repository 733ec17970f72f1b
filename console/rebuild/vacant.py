"""Whether Redis may be filled anew: nobody works with it, and what it holds is not wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator

from batcher.windows import LEASE_MS, Windows
from consumer.keys import Keys, Role
from consumer.layout import shown
from consumer.service import Stop
from consumer.store import Store, text

#: Keys looked at in one call: Redis serves nobody else meanwhile.
SCAN = 500
#: Who just stopped may have left a lease: the longest ends within this, unless somebody renews it.
LEASES_S = LEASE_MS / 1000 + 5
PAUSE_S = 0.2


def require_vacant(store: Store, topic: str, partitions: int, *, replace: bool) -> None:
    """Raises Stop while a worker holds something, and where there is state that nobody gave up."""
    push, batch = Keys(topic, Role.PUSH), Keys(topic, Role.BATCH)
    heads = [keys.head(p) for keys in (push, batch) for p in range(partitions)]
    names = Windows(store, batch).connections()
    asked = [("HGET", head, "lease") for head in heads]
    asked += [("HGET", batch.window(name), "until") for name in names]
    deadline = time.monotonic() + LEASES_S
    while max((int(until or 0) for until in store.commands(asked)), default=0) > _now_ms(store):
        if time.monotonic() > deadline:
            raise Stop(
                f"a worker, or another `referrals rebuild`, is at work in Redis at {shown(store.url)}: stop "
                "all services, then run this again"
            )
        time.sleep(PAUSE_S)
    facts = store.hash(push.layout)
    if "rebuilding" in facts and facts.get("complete") != "1":
        return
    # What a worker wrote before it noticed, such as what it leased of limits, is no state.
    heads_left = any(store.commands([("EXISTS", head) for head in heads]))
    if not replace and (facts or heads_left):
        raise Stop(
            f"Redis at {shown(store.url)} holds state of {topic}: where the services start with it, there is "
            "nothing to rebuild. If they say that it went back, `--replace` removes it and rebuilds"
        )


def _now_ms(store: Store) -> int:
    return int(store.command("TIME")[0]) * 1000


def clear(store: Store, topic: str) -> None:
    """Remove what is ours, but for the layout, which says that it does not count, and who is paused: Kafka
    does not know that.
    """
    keys = Keys(topic, Role.PUSH)
    kept = {keys.layout, keys.paused}
    for found in _keys(store, topic):
        gone = [key for key in found if key not in kept]
        store.commands([("UNLINK", key) for key in gone])


def _keys(store: Store, topic: str) -> Iterator[list[str]]:
    """All keys of ours, some at a time, but for what a barrier left."""
    for pattern in (f"{topic}:*", f"{{{topic}:*"):
        cursor = "0"
        while True:
            told, found = store.command("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN)
            cursor = text(told)
            names = [text(key) for key in found if text(key) != f"{topic}:barrier"]
            if names:
                yield names
            if cursor == "0":
                break
