"""The rows of the conformance suite: statements about a kernel, each with a check of its own.

A row speaks of some personalities. Its check is run once for each of them, and for each of its
variants (suites, mostly) if it has some. A statement that one could expect to be another has a note
that says where it is from. A statement that is not followed here is a row too, with the reason
instead of a check.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.conformance.world import World

FREEBSD = ("freebsd13.0", "freebsd13", "freebsd14", "freebsd15")
NEWEST_LINUX = ("linux",)
OLDER_LINUX = ("linux6.12",)
LINUX = (*OLDER_LINUX, *NEWEST_LINUX)
OURS = ("umktls",)
EVERYBODY = (*FREEBSD, *LINUX, *OURS)

Check = Callable[..., None]


@dataclass(frozen=True)
class Row:
    """`statement` is about the kernels of `personalities`; `area` is the page's heading."""

    module: str
    area: str
    statement: str
    personalities: tuple[str, ...]
    check: Check | None
    variants: tuple[Any, ...] = ()
    reason: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        return self.check.__name__ if self.check else self.statement

    def run(self, personality: str, variant: Any) -> None:
        """The check, in a world of its own."""
        assert self.check is not None
        arguments = () if variant is None else (variant,)
        self.check(World(personality), *arguments)


ROWS: list[Row] = []


def row(
    area: str, statement: str, on: Sequence[str], variants: Sequence[Any] = (), note: str = ""
) -> Callable[[Check], Check]:
    """Make the function that follows the check of a row."""

    def register(check: Check) -> Check:
        module, speaks_of = check.__module__, tuple(on)
        ROWS.append(Row(module, area, statement, speaks_of, check, tuple(variants), note=note))
        return check

    return register


def not_here(area: str, statement: str, on: Sequence[str], reason: str) -> None:
    """A statement that is not followed here, and why."""
    module = sys._getframe(1).f_globals["__name__"]
    ROWS.append(Row(module, area, statement, tuple(on), None, reason=reason))
