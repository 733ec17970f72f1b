"""The countries of the demo's people: `countries.toml`, read once and typed."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Country:
    """One entry of `countries.toml`, which explains its members; a city is (name, state, postal pattern)."""

    code: str
    language: str
    currency: str
    zone: str
    women: tuple[str, ...]
    men: tuple[str, ...]
    surnames: tuple[str, ...]
    titles: tuple[str, ...]
    genders: tuple[str, ...]
    cities: tuple[tuple[str, ...], ...]
    streets: tuple[str, ...]
    address: str
    second_lines: tuple[str, ...]
    prefix: str
    digits: int
    local: tuple[str, ...]
    offer: str
    accept: str
    consent: str


def _country(entry: dict[str, Any]) -> Country:
    members: dict[str, Any] = {}
    for name, value in entry.items():
        members[name] = tuple(value) if isinstance(value, list) else value
    members["cities"] = tuple(tuple(city.split("/")) for city in members["cities"])
    return Country(**members)


def _read() -> tuple[Country, ...]:
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    return tuple(_country(entry) for entry in tomllib.loads(text)["country"])


COUNTRIES = _read()
