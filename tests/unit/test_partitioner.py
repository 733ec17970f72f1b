"""Where records belong, against what Java's own clients count."""

from __future__ import annotations

import pytest

from consumer.partitioner import partition_of


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_java_puts_it_there(key: bytes, murmur2: int) -> None:
    """The figures are those of Apache Kafka's own tests."""
    for partitions in (1, 4, 12, 1_000):
        assert partition_of(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions
