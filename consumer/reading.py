"""Topics read by no group: whole, from offsets on, and what a group's commits say. No position is moved."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from consumer.log import silent
from consumer.stream import BROKER_TIMEOUT_S, FULL_QUEUE_MS, Record, StreamFailed, Witness, record_of, witness

#: Prefetched bytes of a reader that may be slow: they take twice as much memory.
READ_KBYTES = 4_096
#: Reading a topic to its end gives up when the broker says nothing for so long.
SILENCE_S = 30.0


def committed(
    bootstrap: str, config: Mapping[str, Any], topic: str, group: str, partitions: int
) -> dict[int, Witness]:
    """What a group's commits say of each partition, without joining it; 0 where they say nothing. Raises
    StreamFailed.
    """
    given = {**config, "bootstrap.servers": bootstrap, "group.id": group, "logger": silent()}
    consumer = Consumer({**given, "enable.auto.commit": False})
    try:
        asked = [TopicPartition(topic, p) for p in range(partitions)]
        return {c.partition: witness(c) for c in consumer.committed(asked, timeout=BROKER_TIMEOUT_S)}
    except KafkaException as error:
        raise StreamFailed(f"the commits of {group} cannot be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def read_all(
    bootstrap: str, config: Mapping[str, Any], topic: str, starts: Mapping[int, int] | None = None
) -> Generator[Record, None, None]:
    """Every record of `topic` from `starts` (default: the beginning) to the end of each partition as
    the broker reports it while reading. No group, no commit, no position moved.

    The end is the fetch's, not a look-up's: it is right on every broker. Raises StreamFailed.
    """
    consumer = Consumer(
        {
            **config,
            "bootstrap.servers": bootstrap,
            "group.id": "referral-delivery-reader",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # The end is told by a fetch that finds nothing: it need not wait for more.
            "fetch.wait.max.ms": 20,
            "check.crcs": True,
            "queued.max.messages.kbytes": READ_KBYTES,
            "fetch.queue.backoff.ms": FULL_QUEUE_MS,
            "logger": silent(),
        }
    )
    try:
        yield from _read_all(consumer, topic, starts)
    except KafkaException as error:
        raise StreamFailed(f"reading {topic} failed: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _read_all(consumer: Consumer, topic: str, starts: Mapping[int, int] | None) -> Iterator[Record]:
    # Asked for in any case: a fetch from a topic that is not there is answered with silence.
    metadata = consumer.list_topics(topic, timeout=BROKER_TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        raise StreamFailed(f"topic {topic} is not there: check its name, or run `referrals init`")
    if starts is None:
        starts = dict.fromkeys(metadata.partitions, OFFSET_BEGINNING)
    unfinished = set(starts)
    consumer.assign([TopicPartition(topic, p, o) for p, o in starts.items()])
    while unfinished:
        message = consumer.poll(SILENCE_S)
        if message is None:
            raise StreamFailed(f"Kafka said nothing for {SILENCE_S:.0f} s while {topic} was read")
        error = message.error()
        if error is None:
            if message.partition() in unfinished:
                yield record_of(message)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the binding's public constant
            unfinished.discard(message.partition())
        elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise StreamFailed(f"reading {topic} failed: {error.str()}")
