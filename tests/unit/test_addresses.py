"""The bad addresses of an advertiser's file and of its name servers, and what an operator reads of each."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from consumer.addresses import Policy, Refused, Target, allowed, check, networks, origin, pick
from consumer.clients import parse
from consumer.service import Stop, settings

STRICT = Policy()
LOCAL = Policy(allow_http=True, allowed_networks=networks("127.0.0.0/8, ::1/128"))
INNER = Policy(allowed_networks=networks("10.20.0.0/16"))
ANY_PORT = Policy(any_port=True)


def judged(url, policy=STRICT):
    called = origin(url)
    parts = called if isinstance(called, Refused) else parse(called)
    found = parts if isinstance(parts, Refused) else check(parts, policy)
    return found.reason if isinstance(found, Refused) else found


WHOLE = "the URL is not whole: give https://, a host name and a path"
BLANKS = "the URL has blanks, backslashes or control characters"
LOOPBACK = "127.0.0.1 is an address in numbers: give the receiver's host name"
PORT = "port {} is not allowed: 443 and 8443 are, others by REFERRALS_ANY_PORT"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        # Not https, not whole.
        ("http://crm.example/", "http:// is not allowed: give an https:// URL"),
        ("file:///etc/passwd", WHOLE),
        ("file://crm.example/etc/passwd", "file:// is not allowed: give an https:// URL"),
        ("gopher://crm.example:443/_x", "gopher:// is not allowed: give an https:// URL"),
        ("ftp://crm.example/", "ftp:// is not allowed: give an https:// URL"),
        ("javascript:alert(1)", WHOLE),
        ("https:crm.example", WHOLE),
        ("https:///crm.example/", WHOLE),
        ("//crm.example/", WHOLE),
        ("crm.example/leads", WHOLE),
        ("", WHOLE),
        (" https://crm.example/", BLANKS),
        ("https://crm.example/a b", BLANKS),
        ("https://crm.example\\@10.0.0.1/", BLANKS),
        ("ht\ttps://crm.example/", BLANKS),
        ("https://crm.example/\r\nX: y", BLANKS),
        ("https://crm.example/\x00", BLANKS),
        ("https://crm.example/\u2028", BLANKS),
        ("https://crm.example/" + "a" * 8_192, "the URL is longer than 8,192 characters"),
        ("https://crm.example/#f", "the URL has a fragment (#…), which is never sent: leave it out"),
        ("https://crm.example#@10.0.0.1/", "the URL has a fragment (#…), which is never sent: leave it out"),
        # Credentials.
        *(
            (url, "the URL has a user name or password: give credentials as `auth`")
            for url in (
                "https://user@crm.example/",
                "https://user:SECRET@crm.example/",
                "https://@crm.example/",
                "https://crm.example:443@10.0.0.1/",
                "https://crm.example@@10.0.0.1/",
            )
        ),
        # Addresses in numbers, in any spelling.
        *(
            (f"https://{spelling}/", LOOPBACK)
            for spelling in (
                "127.0.0.1",
                "2130706433",
                "0x7f000001",
                "017700000001",
                "0x7f.1",
                "127.1",
                "127.0.1",
                "0177.0.0.1",
                "0x7f.0x0.0x0.0x1",
                "127.0.0.1.",
                "%31%32%37.0.0.1",
                "127%2e0%2e0%2e1",
                "\uff11\uff12\uff17.0.0.1",
                "\u2460\u2461\u2466.0.0.1",
                "127\u30020\u30020\u30021",
                "127.0.0.1:443",
            )
        ),
        ("https://8.8.8.8/", "8.8.8.8 is an address in numbers: give the receiver's host name"),
        ("https://[::1]/", "::1 is an address in numbers: give the receiver's host name"),
        (
            "https://[::ffff:169.254.169.254]/",
            "::ffff:a9fe:a9fe is an address in numbers: give the receiver's host name",
        ),
        (
            "https://[64:ff9b::7f00:1]/",
            "64:ff9b::7f00:1 is an address in numbers: give the receiver's host name",
        ),
        ("https://[fe80::1%25eth0]/", "the URL cannot be read: invalid IPv6 address"),
        ("https://[::1/", "the URL cannot be read: invalid IPv6 address"),
        ("https://256.0.0.1/", "the URL cannot be read: invalid IPv4 address"),
        ("https://1.2.3.4.5/", "the URL cannot be read: invalid IPv4 address"),
        # Names.
        ("https://localhost/", "localhost is this machine: give the receiver's host name"),
        ("https://LOCALHOST:8443/", "localhost is this machine: give the receiver's host name"),
        ("https://\uff4cocalhost/", "localhost is this machine: give the receiver's host name"),
        ("https://crm.localhost/", "crm.localhost is this machine: give the receiver's host name"),
        (
            "https://localhost.localdomain/",
            "localhost.localdomain is this machine: give the receiver's host name",
        ),
        ("https://ip6-localhost/", "ip6-localhost is this machine: give the receiver's host name"),
        ("https://crm.example./", "the host name ends in a dot: leave it out"),
        ("https://crm.example\u3002/", "the host name ends in a dot: leave it out"),
        ("https://localhost./", "the host name ends in a dot: leave it out"),
        ("https://crm..example/", "crm..example is no host name"),
        ("https://-crm.example/", "-crm.example is no host name"),
        ("https://c*m.example/", "c*m.example is no host name"),
        (f"https://{'a' * 64}.example/", f"{'a' * 64}.example is no host name"),
        (f"https://{'a.' * 127}example/", f"{('a.' * 39)[:77]}… is no host name"),
        ("https://xn--/", "the URL cannot be read: invalid international domain name"),
        # Ports.
        ("https://crm.example:0/", PORT.format(0)),
        ("https://crm.example:22/", PORT.format(22)),
        ("https://crm.example:80/", PORT.format(80)),
        ("https://crm.example:6379/", PORT.format(6379)),
        ("https://crm.example:65536/", "the URL cannot be read: invalid port number"),
        ("https://crm.example:-1/", "the URL cannot be read: invalid port number"),
        ("https://crm.example:x/", "the URL cannot be read: invalid port number"),
    ],
)
def test_a_url_that_is_not_called(url, reason):
    got = judged(url)
    assert got == reason
    assert "SECRET" not in got


@pytest.mark.parametrize(
    ("url", "policy", "target"),
    [
        ("https://crm.example", STRICT, Target("https", "crm.example", 443, None, False)),
        ("HTTPS://CRM.EXAMPLE:/x?y", STRICT, Target("https", "crm.example", 443, None, False)),
        ("https://crm.example?to=a@b", STRICT, Target("https", "crm.example", 443, None, False)),
        ("https://crm.example:8443/", STRICT, Target("https", "crm.example", 8443, None, False)),
        ("https://bücher.example/", STRICT, Target("https", "xn--bcher-kva.example", 443, None, False)),
        ("https://c%72m.example/", STRICT, Target("https", "crm.example", 443, None, False)),
        ("https://a_b.c-d.example/", STRICT, Target("https", "a_b.c-d.example", 443, None, False)),
        ("https://crm.example:9000/", ANY_PORT, Target("https", "crm.example", 9000, None, False)),
        ("https://crm.example:9000/", INNER, Target("https", "crm.example", 9000, None, True)),
        ("https://10.20.0.5:9000/", INNER, Target("https", "10.20.0.5", 9000, "10.20.0.5", True)),
        ("http://crm/", LOCAL, Target("http", "crm", 80, None, False)),
        ("http://localhost:8080/", LOCAL, Target("http", "localhost", 8080, None, True)),
        ("http://2130706433:8080/", LOCAL, Target("http", "127.0.0.1", 8080, "127.0.0.1", True)),
        ("http://[::1]:8080/", LOCAL, Target("http", "[::1]", 8080, "::1", True)),
    ],
)
def test_what_may_be_called(url, policy, target):
    assert judged(url, policy) == target


@pytest.mark.parametrize(
    ("url", "policy", "reason"),
    [
        ("http://crm.example/", INNER, "http:// is not allowed: give an https:// URL"),
        ("https://127.0.0.1/", INNER, LOOPBACK),
        ("https://8.8.8.8/", LOCAL, "8.8.8.8 is an address in numbers: give the receiver's host name"),
        ("https://localhost/", ANY_PORT, "localhost is this machine: give the receiver's host name"),
        ("https://crm.example:0/", ANY_PORT, PORT.format(0)),
        ("https://crm.example:0/", LOCAL, PORT.format(0)),
    ],
)
def test_an_exception_opens_no_more_than_it_says(url, policy, reason):
    assert judged(url, policy) == reason


CREDENTIALS = "a cloud's metadata service"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("93.184.216.34", None),
        ("2606:2800:220:1:248:1893:25c8:1946", None),
        ("::ffff:93.184.216.34", None),
        ("192.0.1.1", None),
        ("198.20.0.1", None),
        ("127.0.0.1", "this machine"),
        ("0.0.0.0", "this machine"),
        ("::1", "this machine"),
        ("::", "IPv4 written as IPv6"),
        ("10.0.0.1", "a private network"),
        ("172.16.0.1", "a private network"),
        ("172.31.255.255", "a private network"),
        ("192.168.1.1", "a private network"),
        ("fc00::1", "a private network"),
        ("fd12:3456::1", "a private network"),
        ("fec0::1", "a private network"),
        ("100.64.0.1", "a provider's inner network"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("2606:4700::1%eth0", "of one link only"),
        ("169.254.169.254", CREDENTIALS),
        ("fd00:ec2::254", CREDENTIALS),
        ("100.100.100.200", CREDENTIALS),
        ("168.63.129.16", CREDENTIALS),
        ("::ffff:169.254.169.254", CREDENTIALS),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("203.0.113.1", "reserved"),
        ("2001:db8::1", "reserved"),
        ("100::1", "reserved"),
        ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
        ("192.88.99.1", "a 6to4 relay"),
        ("64:ff9b::8.8.8.8", "IPv4 behind NAT64"),
        ("64:ff9b::169.254.169.254", f"169.254.169.254 behind a translator, {CREDENTIALS}"),
        ("64:ff9b:1::10.0.0.1", "10.0.0.1 behind a translator, a private network"),
        ("2002:7f00:1::1", "127.0.0.1 behind a translator, this machine"),
        ("2002:808:808::1", "IPv4 behind 6to4"),
        ("::ffff:0:127.0.0.1", "127.0.0.1 behind a translator, this machine"),
        ("::127.0.0.1", "IPv4 written as IPv6"),
        ("::8.8.8.8", "IPv4 written as IPv6"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "IPv4 behind Teredo"),
    ],
)
def test_an_address_by_its_network(address, kind):
    assert allowed(ip_address(address), STRICT) == kind


@pytest.mark.parametrize(
    ("given", "address", "kind"),
    [
        ("10.0.0.0/8", "10.9.9.9", None),
        ("10.0.0.0/8", "::ffff:10.9.9.9", None),
        ("10.0.0.0/8", "192.168.0.1", "a private network"),
        ("::1/128", "::1", None),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", None),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1", "10.0.0.1 behind a translator, a private network"),
        ("fd00::/8", "fd00:ec2::254", CREDENTIALS),
        ("169.254.0.0/16", "169.254.169.254", CREDENTIALS),
    ],
)
def test_a_network_the_operator_allows(given, address, kind):
    assert allowed(ip_address(address), Policy(allowed_networks=networks(given))) == kind


OUTSIDE = (
    "crm.example resolves to 8.8.8.8, which is outside REFERRALS_ALLOWED_NETWORKS, "
    "so port 9000 is not allowed: nothing was sent"
)
CRM = Target("https", "crm.example", 443, None, named_only=False)


@pytest.mark.parametrize(
    ("target", "policy", "resolved", "expected"),
    [
        (CRM, STRICT, ["8.8.8.8", "8.8.4.4", "8.8.8.8"], ("8.8.8.8", "8.8.4.4")),
        (CRM, STRICT, [], "crm.example has no address"),
        (
            CRM,
            STRICT,
            ["8.8.8.8", "10.0.0.1"],
            "crm.example resolves to 10.0.0.1, which is a private network: nothing was sent",
        ),
        (
            CRM,
            STRICT,
            [*(f"8.8.8.{last}" for last in range(50)), "169.254.169.254"],
            f"crm.example resolves to 169.254.169.254, which is {CREDENTIALS}: nothing was sent",
        ),
        (CRM, STRICT, [f"8.8.8.{last}" for last in range(50)], tuple(f"8.8.8.{n}" for n in range(16))),
        (CRM, INNER, ["10.20.0.1", "8.8.8.8"], ("10.20.0.1", "8.8.8.8")),
        (CRM._replace(port=9000, named_only=True), INNER, ["10.20.0.1"], ("10.20.0.1",)),
        (
            CRM._replace(port=9000, named_only=True),
            INNER,
            ["10.20.0.1", "8.8.8.8"],
            OUTSIDE,
        ),
    ],
)
def test_all_that_a_name_stands_for(target, policy, resolved, expected):
    got = pick(target, resolved, policy)
    assert (got.reason if isinstance(got, Refused) else got) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("10.0.0.1/8", "entry 1 is no network: give CIDRs with commas between, such as 10.1.0.0/16,::1/128"),
        ("10.0.0.0/8 ::1/128", "entry 1 is no network: give"),
        ("10.0.0.0/8,", "entry 2 is no network: give"),
        ("10.0.0.0/8,SECRET", "entry 2 is no network: give"),
        ("::1/128,0.0.0.0/0", "entry 2 is every address: name the networks you mean"),
        ("::/0", "entry 1 is every address: name the networks you mean"),
    ],
)
def test_a_setting_that_names_no_network(text, wrong, monkeypatch):
    monkeypatch.setenv("REFERRALS_ALLOWED_NETWORKS", text)
    with pytest.raises(Stop) as stop:
        settings()
    assert str(stop.value).startswith(f"environment: REFERRALS_ALLOWED_NETWORKS: Value error, {wrong}")
    assert "SECRET" not in str(stop.value)


def test_nothing_is_opened_unless_it_is_set(monkeypatch):
    for name in ("ALLOW_HTTP", "ALLOWED_NETWORKS", "ANY_PORT"):
        monkeypatch.delenv(f"REFERRALS_{name}", raising=False)
    assert settings().policy == STRICT
    monkeypatch.setenv("REFERRALS_ALLOW_HTTP", "true")
    monkeypatch.setenv("REFERRALS_ALLOWED_NETWORKS", "127.0.0.0/8, ::1/128")
    assert settings().policy == LOCAL
