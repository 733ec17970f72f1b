"""What a text becomes before it stands in a cell. Pure."""

from __future__ import annotations

import re

#: Every line end some reader knows, CRLF as one: \v, \f, the separators 1C to 1E, NEL, U+2028, U+2029.
_LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
#: NUL and the other control characters but TAB, halves of surrogate pairs, and what XML forbids: no reader
#: agrees on them.
_UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
#: What spreadsheets take for a formula (OWASP ASVS 1.2.10), also behind blanks and marks that some
#: of them drop, and in the full-width forms that some of them read alike.
_FORMULA = re.compile(r"[\t\r\n]|[\s\ufeff\u200b-\u200f\x00-\x1f]*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def clean(value: str, instead: str = "\ufffd") -> str:
    """One line: a line end becomes one blank, what no reader agrees on becomes `instead`."""
    return value if value.isprintable() else _UNWRITABLE.sub(instead, _LINE_END.sub(" ", value))


def guarded(value: str, instead: str = "\ufffd") -> str:
    """The same with an apostrophe before what a spreadsheet would run."""
    if value[:1].isalnum() and value.isprintable():
        return value  # most are like this: no pattern need look
    return f"'{clean(value, instead)}" if _FORMULA.match(value) else clean(value, instead)
