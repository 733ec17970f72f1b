from __future__ import annotations

import pytest

from consumer.exchange import NotSent, Unknown, Unsendable
from consumer.http_failures import failure

URL = "error sending request for url (https://crm.example/?client error (Connect) dns error)"
CONNECT = "client error (Connect)"
SENT = "client error (SendRequest)"


@pytest.mark.parametrize(
    ("kind", "causes", "known"),
    [
        pytest.param(
            "ConnectError", [URL, SENT, "?"], Unknown("no answer (ConnectError)"), id="the class is no proof"
        ),
        pytest.param("ConnectError", [URL], Unknown("no answer (ConnectError)"), id="nor is the address"),
        pytest.param(
            "ConnectError", [URL, CONNECT, "?"], NotSent("could not connect"), id="the connector is"
        ),
        pytest.param("NewError", [URL, CONNECT, "?"], NotSent("could not connect"), id="whatever the class"),
        pytest.param(
            "ConnectTimeoutError", [URL, "operation timed out"], Unknown("no answer in 20 s"), id="timeout"
        ),
        pytest.param(
            "ConnectTimeoutError",
            [URL, CONNECT, "operation timed out"],
            NotSent("no connection in time"),
            id="timeout of the connector",
        ),
        pytest.param(
            "PoolTimeoutError", ["deadline has elapsed"], NotSent("no free connection in time"), id="queued"
        ),
        pytest.param(
            "BuilderError", [], Unsendable("the address or a header cannot be sent"), id="never built"
        ),
        pytest.param(
            "ConnectError",
            [URL, SENT, "connection error", "received fatal alert: UnknownCA"],
            NotSent("the server refuses our client certificate"),
            id="our certificate",
        ),
        pytest.param(
            "ConnectError",
            [URL, CONNECT, "received fatal alert: CertificateExpired"],
            NotSent("the server refuses our client certificate"),
            id="ours, not the server's",
        ),
        pytest.param(
            "ConnectError",
            [URL, CONNECT, "invalid peer certificate: Expired"],
            NotSent("TLS certificate expired"),
            id="the server's",
        ),
        pytest.param(
            "ConnectError",
            [URL, SENT, "connection error", "received fatal alert: InternalError"],
            Unknown("no answer (ConnectError)"),
            id="any other alert is no proof",
        ),
        pytest.param("ReadError", ["error decoding response body", "?"], None, id="lost after its head"),
        pytest.param("RequestPanicError", [], Unknown("no answer (RequestPanicError)"), id="its own defect"),
    ],
)
def test_what_a_failure_proves(kind, causes, known):
    assert failure(kind, causes, 20.0) == known
