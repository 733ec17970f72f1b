"""One file per CRM. Each says how a referral is rendered, asked for and its answer classed.

A new CRM is a new kind in `schemas.push`, a file here with the functions of `port.Crm`, a line in
BY_KIND, and a place in the suite every CRM passes (`tests/contract/test_crms.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from consumer.crm import google_customer_match, http, hubspot, mailchimp, meta_custom_audience, salesforce
from consumer.crm.port import AnyCrm, Crm

BY_KIND: Mapping[str, AnyCrm] = {
    "http": Crm(http.render, http.request, http.classify),
    "mailchimp": Crm(mailchimp.render, mailchimp.request, mailchimp.classify, mailchimp.MAX_ROWS),
    "salesforce": Crm(salesforce.render, salesforce.request, salesforce.classify, salesforce.MAX_ROWS),
    "hubspot": Crm(hubspot.render, hubspot.request, hubspot.classify, hubspot.MAX_ROWS),
    "meta_custom_audience": Crm(
        meta_custom_audience.render,
        meta_custom_audience.request,
        meta_custom_audience.classify,
        meta_custom_audience.MAX_ROWS,
    ),
    "google_customer_match": Crm(
        google_customer_match.render,
        google_customer_match.request,
        google_customer_match.classify,
        google_customer_match.MAX_ROWS,
    ),
}
