"""The advertisers' files as people write them: text in, accounts or every error at once.

A problem says where it stands, what it is and what to do, and never repeats a value. Files that are taken
may come with warnings, told in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from schemas import advice, crossing, explain, yaml_lines
from schemas.connection import CROSSING, Account, ConnectionSet
from schemas.problem import Problem
from schemas.yaml_lines import Node

__all__ = ["Assembled", "Problem", "assemble", "examine", "parse"]


_INDEX = re.compile(r"^connections\[\d+\]")


@dataclass(frozen=True, slots=True)
class Assembled:
    """A set that is taken, and what in its files is still worth a look."""

    connections: ConnectionSet
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """What one file gave: its account only where it has no problem."""

    file: str
    root: Node | None
    account: Account | None
    problems: list[Problem]


def parse(text: str, file: str) -> Account | list[Problem]:
    """The account `text` describes, or its problems in the order of their lines. `file` names it."""
    read = _read(text, file)
    return read.account if read.account is not None else read.problems


def assemble(files: Iterable[tuple[str, str]]) -> ConnectionSet | list[Problem]:
    """The set that all files (name, text) make up, or the problems of all of them."""
    found = examine(files)
    return found.connections if isinstance(found, Assembled) else found


def examine(files: Iterable[tuple[str, str]]) -> Assembled | list[Problem]:
    """The set that all files (name, text) make up with its warnings, or the problems of all of them.

    No file at all is a problem: an empty folder is far more often a lost mount than a wish.
    """
    reads = [_read(text, file) for file, text in files]
    if not reads:
        return [Problem("connections", 1, "", "no connections file was found", "check the folder's path")]
    between = crossing.between([(read.file, read.root) for read in reads if read.root is not None])
    problems = [problem for read in reads for problem in _ordered(read, between)]
    if problems:
        return problems
    taken = [(read, read.account, read.root) for read in reads]
    return Assembled(
        ConnectionSet(accounts=tuple(account for _, account, _ in taken if account is not None)),
        tuple(
            warning
            for read, account, root in taken
            if account is not None and root is not None
            for warning in advice.of(account, root, read.file)
        ),
    )


def _ordered(read: _Read, between: list[Problem]) -> list[Problem]:
    return sorted([*read.problems, *(problem for problem in between if problem.file == read.file)])


def _read(text: str, file: str) -> _Read:
    root, problems = yaml_lines.read(text, file)
    account = None
    if root is not None:
        problems += crossing.within(root, file)
        try:
            account = Account.model_validate(root.value())
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)
            # What `crossing` judges as well is told once, with its better line.
            own = [fault for fault in faults if fault["type"] != CROSSING]
            told = [explain.problem(fault, root, file) for fault in (own if own or problems else faults)]
            problems += [problem for problem in told if problem is not None]
    # A slip behind an alias shows in every connection that uses it, in the one line where it stands.
    once = {(problem.line, _INDEX.sub("", problem.where)): problem for problem in reversed(problems)}
    return _Read(file, root, None if problems else account, sorted(once.values()))
