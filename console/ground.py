"""What a command stands on: Kafka and Redis, their troubles told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from consumer import layout
from consumer.kafka_out import NotAcknowledged
from consumer.keys import Keys, Role
from consumer.run import Ground
from consumer.service import Settings, Stop
from consumer.store import NotDurable, Store, StoreRefused, StoreUnavailable
from consumer.stream import StreamFailed
from consumer.topics import Topics, TopicTrouble


@contextmanager
def plainly() -> Iterator[None]:
    """Turn every trouble of Kafka and Redis into Stop."""
    try:
        yield
    except StoreUnavailable as error:
        raise Stop(f"{error}: check REFERRALS_REDIS and that it runs") from error
    except NotAcknowledged as error:
        raise Stop(f"{error}: check REFERRALS_KAFKA and run this again") from error
    except (TopicTrouble, StreamFailed, StoreRefused, NotDurable) as error:
        raise Stop(str(error)) from error


@contextmanager
def standing(settings: Settings) -> Iterator[Ground]:
    """All that a service checks before it starts. Raises Stop."""
    with plainly():
        ground = Ground(settings, Role.PUSH)
        with closing(ground.store):
            yield ground


@contextmanager
def redis_alone(settings: Settings) -> Iterator[tuple[Store, Keys]]:
    """The state in Redis, checked as far as Redis knows: of use while Kafka is away. Raises Stop."""
    topics = Topics(settings.prefix)
    append_only = not settings.allow_volatile_redis
    with (
        plainly(),
        closing(Store(settings.redis, append_only=append_only, replicas=settings.redis_replicas)) as store,
    ):
        layout.require_durable(store, volatile_ok=settings.allow_volatile_redis)
        if layout.read(store, topics) is None:
            # Kafka remembers whether there ever was something: this says which it is.
            with standing(settings):
                raise AssertionError("no layout in Redis, and nobody minds")
        yield store, Keys(topics.referrals, Role.PUSH)
