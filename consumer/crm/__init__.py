"""One file per CRM. Each says how a referral is rendered, asked for and its answer classed.

A new CRM is a new kind in `schemas.push`, a file here with the functions of `port.Crm`, a line in
BY_KIND, and a place in the suite every CRM passes (`tests/contract/test_crms.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from consumer.crm import http
from consumer.crm.port import AnyCrm, Crm

BY_KIND: Mapping[str, AnyCrm] = {"http": Crm(http.render, http.request, http.classify)}
