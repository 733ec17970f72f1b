"""Channels: the steps that leave this process, each small, synchronous and bounded in time.

The law: expected failures come back as values. `Retry` and `Hold` both say that the step has not
succeeded as far as anyone knows and that asking again is safe; a step whose outcome nobody can know
says so with a value of its own. A reason is one sentence for an operator, without secrets and without
personal data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """A fault that passes by itself: network, time, a server that died."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing changes until a person acts: credentials, keys, folders, rights, space, a foreign file."""

    reason: str
