"""Whom an account lets its referrals be mailed to: single mailboxes, or all of a domain. Pure.

Its law: an entry approves what it says and no more. A domain is that domain without those below it, and a
mailbox is that mailbox without its plus addresses. Upper and lower case are one, as they are to mail servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from schemas import grammar

#: A list that people have read: longer ones are whole domains.
MAX_APPROVED = 200

_FORM = (
    r"(?=.{4,254}\Z)[A-Za-z0-9.!#$%&'+/=?^_`{|}~-]{0,64}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}"
)
#: A mailbox, or `@` and a domain, in ASCII. A star stands for nothing.
Approved = Annotated[
    str,
    grammar.matching(
        _FORM,
        'give a plain email address such as leads@example.com, or a whole domain as "@example.com" '
        "(ASCII, another script's domain in its xn-- form)",
    ),
]


def known(entries: Iterable[str]) -> frozenset[str]:
    """What `covers` looks in. None where an entry has a slip of its own: such a list is no measure."""
    found = frozenset(entry.lower() for entry in entries)
    return found if all(re.fullmatch(_FORM, entry) for entry in found) else frozenset()


def covers(known: frozenset[str], recipient: str) -> bool:
    """Whether an entry approves the recipient."""
    mailbox = recipient.lower()
    return mailbox in known or f"@{mailbox.rpartition('@')[2]}" in known
