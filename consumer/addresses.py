"""What may be called: which URLs, and which of the addresses a name stands for. Pure.

Its law: judged is what will be called, never a spelling of it: the host as the client's own parser reads
it, and every address its name resolves to. One bad address refuses the name, for whoever holds the name
chooses which of them is taken next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Where an API over TLS is. Others, a Redis or a mail server among them, must be allowed.
USUAL_PORTS = frozenset({443, 8443})
#: Twice what most servers take, with room for a template's values.
MAX_URL = 8_192
#: RFC 1035, 2.3.4.
MAX_NAME, MAX_LABEL = 253, 63
#: Of what a name stands for so many are kept to be called; all are judged.
MAX_ADDRESSES = 16

#: Scheme, and everything up to where a path, a query or a fragment begins.
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_LOCAL = frozenset({"localhost", "localdomain", "ip6-localhost", "ip6-loopback"})

#: They give a machine's credentials to whoever asks, so no setting allows them: AWS, GCP and Azure, AWS
#: over IPv6, Alibaba, and Azure's second one.
_METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"))
)
#: Before `is_global`, which takes several of them for public; the first that holds the address names it.
_BLOCKED: Sequence[tuple[Network, str]] = [
    (ip_network(network), kind)
    for network, kind in (
        ("127.0.0.0/8", "this machine"),
        ("::1/128", "this machine"),
        ("0.0.0.0/8", "this machine"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("10.0.0.0/8", "a private network"),
        ("172.16.0.0/12", "a private network"),
        ("192.168.0.0/16", "a private network"),
        ("fc00::/7", "a private network"),
        ("fec0::/10", "a private network"),
        ("100.64.0.0/10", "a provider's inner network"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.0.0.0/24", "reserved"),
        ("64:ff9b::/96", "IPv4 behind NAT64"),
        ("64:ff9b:1::/48", "IPv4 behind NAT64"),
        ("2002::/16", "IPv4 behind 6to4"),
        ("2001::/32", "IPv4 behind Teredo"),
        ("::/96", "IPv4 written as IPv6"),
    )
]
#: RFC 4291: all of IPv6 that is given out for public use.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
#: Translators: what is reached is the IPv4 address at this many bits from the right.
_EMBEDDED = (
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("64:ff9b:1::/48"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("2002::/16"), 80),
)


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's exceptions; as it is made by default, only the public internet over TLS."""

    allow_http: bool = False
    allowed_networks: tuple[Network, ...] = ()
    any_port: bool = False

    def covers(self, address: Address) -> bool:
        return any(address in network for network in self.allowed_networks)


class Parts(NamedTuple):
    """An origin as the HTTP client's parser reads it: `host` in lower case and punycode."""

    scheme: str
    host: str
    port: int | None


class Target(NamedTuple):
    """What may be called, once the addresses of `host` are judged too."""

    scheme: str
    host: str
    port: int
    #: The address, where `host` is one; it is allowed then.
    literal: str | None
    #: Its port asks for addresses the operator named.
    named_only: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """`reason` is for people, and holds no more of the URL than the host."""

    reason: str


def networks(text: str) -> tuple[Network, ...]:
    """CIDRs with commas between. Raises ValueError with a line for people that shows no value."""
    found: list[Network] = []
    for number, item in enumerate(text.split(",") if text.strip() else (), 1):
        try:
            network = ip_network(item.strip())
        except ValueError as error:
            raise ValueError(
                f"entry {number} is no network: give CIDRs with commas between, such as 10.1.0.0/16,::1/128"
            ) from error
        if network.prefixlen == 0:
            raise ValueError(f"entry {number} is every address: name the networks you mean")
        found.append(network)
    return tuple(found)


def origin(url: str) -> str | Refused:
    """The part of a URL that says whom to call, cut so that nothing behind it can say otherwise."""
    if len(url) > MAX_URL:
        return Refused(f"the URL is longer than {MAX_URL:,} characters")
    if not url.isprintable() or "\\" in url or " " in url:
        return Refused("the URL has blanks, backslashes or control characters")
    found = _ORIGIN.match(url)
    if found is None or not found[2]:
        return Refused("the URL is not whole: give https://, a host name and a path")
    if "@" in found[2]:
        return Refused("the URL has a user name or password: give credentials as `auth`")
    if "#" in url:
        return Refused("the URL has a fragment (#…), which is never sent: leave it out")
    return found[0]


def check(parts: Parts, policy: Policy) -> Target | Refused:
    """Whether an origin may be called at all, by what it is written as."""
    scheme, host = parts.scheme, parts.host
    if scheme != "https" and not (scheme == "http" and policy.allow_http):
        return Refused(f"{_shown(scheme)}:// is not allowed: give an https:// URL")
    port = (443 if scheme == "https" else 80) if parts.port is None else parts.port
    literal = _literal(host)
    named_only = not (port in USUAL_PORTS or policy.any_port or (scheme == "http" and port == 80))
    if port == 0 or (named_only and not policy.allowed_networks):
        return Refused(f"port {port} is not allowed: 443 and 8443 are, others by REFERRALS_ANY_PORT")
    if literal is not None:
        kind = allowed(literal, policy) if policy.covers(literal) else "an address in numbers"
        if kind is not None:
            return Refused(f"{literal} is {kind}: give the receiver's host name")
        return Target(scheme, host, port, str(literal), named_only)
    wrong = _name(host, policy)
    return Refused(wrong) if wrong else Target(scheme, host, port, None, named_only)


def pick(target: Target, resolved: Sequence[str], policy: Policy) -> tuple[str, ...] | Refused:
    """The addresses to call, in the resolver's order; `resolved` may repeat them."""
    found = tuple(dict.fromkeys(map(ip_address, resolved)))
    if not found:
        return Refused(f"{target.host} has no address")
    for address in found:
        kind = allowed(address, policy)
        if kind is None and target.named_only and not policy.covers(address):
            kind = f"outside REFERRALS_ALLOWED_NETWORKS, so port {target.port} is not allowed"
        if kind is not None:
            return Refused(f"{target.host} resolves to {address}, which is {kind}: nothing was sent")
    return tuple(map(str, found[:MAX_ADDRESSES]))


def allowed(address: Address, policy: Policy) -> str | None:
    """None, or what the address is that it may not be called."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if mapped is not None:
        return allowed(mapped, policy)
    if address in _METADATA:
        return "a cloud's metadata service"
    inner = _embedded(address)
    if inner is not None and (kind := allowed(inner, policy)):
        return f"{inner} behind a translator, {kind}"
    return None if policy.covers(address) else _kind(address)


def _kind(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "of one link only"
    for network, kind in _BLOCKED:
        if address in network:
            return kind
    if not address.is_global or (isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST):
        return "reserved"
    return None


def _embedded(address: Address) -> IPv4Address | None:
    for network, right in _EMBEDDED:
        if address in network:
            return IPv4Address(int(address) >> right & 0xFFFFFFFF)
    return None


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _name(host: str, policy: Policy) -> str | None:
    """What is wrong with a host name."""
    if host.endswith("."):
        return "the host name ends in a dot: leave it out"
    labels = host.split(".")
    if len(host) > MAX_NAME or any(len(one) > MAX_LABEL or not _LABEL.fullmatch(one) for one in labels):
        return f"{_shown(host)} is no host name"
    loopback = any(network.is_loopback for network in policy.allowed_networks)
    if not loopback and (labels[-1] in _LOCAL):
        return f"{_shown(host)} is this machine: give the receiver's host name"
    return None


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
