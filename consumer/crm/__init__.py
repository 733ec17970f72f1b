"""One file per CRM. Each says how a referral is rendered, asked for and its answer classed.

A new CRM is a new kind in `schemas.connection`, a file here with the three functions of `Crm`, a line
in BY_KIND, and a place in the suite every CRM passes (`tests/contract/test_crm_http.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consumer.crm import http
from consumer.crm.answers import Answer, Pause
from consumer.exchange import Exchanged, Request
from consumer.secrets import Secrets
from schemas.connection import HttpConnection
from schemas.referral import Referral


@dataclass(frozen=True, slots=True)
class Crm:
    """What the push service needs of a kind of connection."""

    #: Made once, at intake; the same bytes on every attempt.
    body: Callable[[HttpConnection, Referral], bytes]
    #: (connection, secrets, delivery id, body, monotonic seconds), for each attempt.
    request: Callable[[HttpConnection, Secrets, str, bytes, float], Request | Pause]
    #: (connection, what came back, Unix seconds)
    classify: Callable[[HttpConnection, Exchanged, float], Answer]


BY_KIND = {"http": Crm(http.body, http.request, http.classify)}
