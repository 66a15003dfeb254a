"""A row of the table of mount options, and short ways to write rows that are much the same."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from umktls.dataclass import dataclass

from .optionvalues import Convert, anything, one_of

__all__ = ["Fate", "Option", "flag", "ignored", "refused", "same", "to_fuse", "words"]


class Fate(Enum):
    """What becomes of an option."""

    HONOURED = "honoured"
    IGNORED = "ignored, with a warning"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Option:
    """One row: what ``NAME`` or ``NAME=VALUE`` does to `MountOptions`.

    help: one line; of an option that is ignored or refused, the reason.
    sets: the field; none for an option that asks for what is so anyway, or speaks to mount(8).
    value: for an option without ``=``, what the field becomes.
    convert: for an option with ``=``, reads the text; it may return an `Unheeded`, or a dictionary
        where several fields get different values.
    takes: how the value is called in the help; the words themselves where there are only few.
    bare: an option with ``=`` may also stand without, and has `value` then.
    fuse: handed on to FUSE as it is, or under the name that it `means`.
    """

    name: str
    help: str
    sets: tuple[str, ...] = ()
    value: Any = None
    convert: Convert | None = None
    takes: str = ""
    bare: bool = False
    fuse: bool = False
    means: str = ""
    fate: Fate = Fate.HONOURED

    @property
    def form(self) -> str:
        """As one types it."""
        if self.convert is None:
            return self.name
        joined = self.name if self.name.endswith("=") else f"{self.name}="
        return f"{self.name}[={self.takes}]" if self.bare else f"{joined}{self.takes}"


def words(
    name: str,
    help: str,
    sets: tuple[str, ...],
    choices: dict[str, Any],
    refused: dict[str, str] | None = None,
) -> Option:
    """An option whose value is one of a few words."""
    return Option(name, help, sets, convert=one_of(choices, refused), takes="|".join(choices))


def flag(help: str, *names: str) -> Iterable[Option]:
    """Options that ask for what is so anyway, or that somebody else heeds."""
    return (Option(name, help) for name in names)


def ignored(reason: str, *names: str) -> Iterable[Option]:
    return (unheard(name, reason, Fate.IGNORED) for name in names)


def refused(reason: str, *names: str) -> Iterable[Option]:
    return (unheard(name, reason, Fate.REFUSED) for name in names)


def unheard(name: str, reason: str, fate: Fate) -> Option:
    """A row without an effect; a name that ends in ``=`` wants a value, one in ``[=]`` may have."""
    bare = name.endswith("[=]")
    plain = name.removesuffix("[=]").removesuffix("=")
    convert = anything if plain != name else None
    return Option(plain, reason, convert=convert, takes="...", bare=bare, fate=fate)


def to_fuse(help: str, *names: str) -> Iterable[Option]:
    return (Option(name, help, fuse=True) for name in names)


def same(name: str) -> dict[str, str]:
    """Words that stand for themselves."""
    return {word: word for word in name.split()}
