"""Schemas by id from a Schema Registry. The one owner of its client.

Ids are immutable, so a schema once seen is kept; that an id does not exist is kept briefly, lest one
poison record ask for it for ever. An unreachable registry is no verdict on the record: the caller waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2
from confluent_kafka.schema_registry import Schema as Registered
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from consumer import log
from consumer.service import Stop
from schemas.codec import Schema, Undecodable, parse

#: A registry down for longer ends the process with a line; meanwhile records wait in Kafka.
PATIENCE_S = 120.0
PAUSE_S = 1.0
#: Distinct ids remembered, known and unknown: more than any topic's history.
MAX_KEPT = 1_024
#: An id that was not there is asked for again after this.
UNKNOWN_S = 30.0
#: The registry's own code for a schema id it does not have.
UNKNOWN_SCHEMA = 40403


class Away(Exception):  # noqa: N818 - a state of the other side, named for what it is
    """The schema is being asked for: nothing is known of the record yet."""


class Registry:
    """Finds writer schemas; callable as `schemas.referral.SchemaById`. Waits for an answer."""

    def __init__(self, url: str, pause: Callable[[float], bool]) -> None:
        """`pause`: wait so many seconds; true when told to stop meanwhile."""
        self._pause = pause
        self._client = SchemaRegistryClient({"url": url, "timeout": 5, "max.retries": 0})
        self._known: dict[int, Schema] = {}
        #: Ids without an Avro schema: until when that is believed, and in which words.
        self._unknown: dict[int, tuple[float, str]] = {}

    def known(self, schema_id: int) -> Schema | None:
        """The schema, if it was found before. Raises Undecodable where it was lately found missing."""
        until, why = self._unknown.get(schema_id, (0.0, ""))
        if time.monotonic() < until:
            raise Undecodable(why)
        return self._known.get(schema_id)

    def __call__(self, schema_id: int) -> Schema:
        """Raises Undecodable when the registry has no such Avro schema, Stop when it stays away."""
        found = self.known(schema_id)
        if found is not None:
            return found
        schema = self._ask(schema_id)
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        self._known[schema_id] = schema
        return schema

    def _ask(self, schema_id: int) -> Schema:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self._client.get_schema(schema_id)
            except SchemaRegistryError as error:
                # A bare 404 is another server's, or another path's: no verdict on any record.
                if error.error_code == UNKNOWN_SCHEMA:
                    raise self._missing(schema_id, "the Schema Registry has no such schema") from error
                why = f"HTTP {error.http_status_code}"
            except httpx2.HTTPError as error:
                why = type(error).__name__
            except (ValueError, TypeError, KeyError, AttributeError):
                why = "what answers is no Schema Registry"
            else:
                if answer.schema_type != "AVRO" or answer.schema_str is None:
                    raise self._missing(schema_id, "it is not an Avro schema")
                return self._parsed(schema_id, answer.schema_str)
            if time.monotonic() > deadline:
                raise Stop(f"the Schema Registry does not answer ({why}): check REFERRALS_SCHEMA_REGISTRY")
            log.trouble("registry.unreachable", reason=why)
            if self._pause(PAUSE_S):
                raise Stop(f"told to stop while the Schema Registry does not answer ({why})")

    def _parsed(self, schema_id: int, text: str) -> Schema:
        try:
            return parse(text)
        except Undecodable as error:
            raise self._missing(schema_id, str(error)) from error

    def _missing(self, schema_id: int, why: str) -> Undecodable:
        if len(self._unknown) >= MAX_KEPT:
            self._unknown.clear()
        told = f"schema {schema_id}: {why}"
        self._unknown[schema_id] = (time.monotonic() + UNKNOWN_S, told)
        return Undecodable(told)


class Aside:
    """Asks a Registry in a thread of its own, for a caller who must not wait: lanes have leases to renew
    while a registry is away.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._asked: dict[int, Future[Schema]] = {}

    def __call__(self, schema_id: int) -> Schema:
        """Raises Away until the answer is there, then what a Registry raises."""
        found = self._registry.known(schema_id)
        if found is not None:
            return found
        asked = self._asked.get(schema_id)
        if asked is None and len(self._asked) < MAX_KEPT:
            self._asked[schema_id] = self._pool.submit(self._registry, schema_id)
        if asked is None or not asked.done():
            raise Away(f"schema {schema_id} is being asked for")
        del self._asked[schema_id]
        return asked.result()


def waiting(url: str | None, pause: Callable[[float], bool]) -> Registry | None:
    """A Registry that its caller waits for; None where none is configured."""
    return Registry(url, pause) if url else None


def aside(url: str | None, pause: Callable[[float], bool]) -> Aside | None:
    """One that nobody waits for; None where none is configured."""
    return Aside(Registry(url, pause)) if url else None


def register(url: str, subject: str, schema: str) -> int:
    """The id of an Avro schema's JSON text under `subject`, registered now if it is new there. Raises Stop.

    Looked up first: where only others may register, that they did is enough.
    """
    wanted = Registered(schema, "AVRO")
    try:
        with SchemaRegistryClient({"url": url, "timeout": 5, "max.retries": 0}) as client:
            found: int | None
            try:
                found = client.lookup_schema(subject, wanted).schema_id
            except SchemaRegistryError as error:
                if error.http_status_code != httpx2.codes.NOT_FOUND:
                    raise
                found = None
            return int(client.register_schema(subject, wanted)) if found is None else found
    except SchemaRegistryError as error:
        why = f"HTTP {error.http_status_code}, code {error.error_code}"
        if error.http_status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
            raise Stop(f"the Schema Registry is in trouble ({why}): try again later") from error
        hint = "it does not fit the versions that stand there, or is not yours to register"
        raise Stop(f"the Schema Registry refuses the schema for {subject} ({why}): {hint}") from error
    except httpx2.HTTPError as error:
        why = type(error).__name__
        raise Stop(f"the Schema Registry does not answer ({why}): check REFERRALS_SCHEMA_REGISTRY") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Stop("what answers at REFERRALS_SCHEMA_REGISTRY is not a Schema Registry: check it") from error
