"""The values of mount options: each function here reads the text behind ``NAME=``.

A converter takes the option's name and the text. It returns the value, or an `Unheeded` where the
text is understood and has no effect here; it raises CallerError with a line for people.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from umktls.abi.rpctls import CERTNAME_MAX
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines import get_engine
from umktls.ktls.engines.choice import named_engines

__all__ = [
    "LAST_ID",
    "MEBIBYTE",
    "Convert",
    "Unheeded",
    "anything",
    "certname",
    "command",
    "deciseconds",
    "engine",
    "engine_fields",
    "engines",
    "group",
    "host",
    "minutes",
    "mode",
    "number",
    "one_of",
    "path",
    "seconds",
    "transfer_size",
    "user",
]

MEBIBYTE = 1 << 20
LAST_ID = (1 << 32) - 2  # the one behind it means "none" to chown(2)

Convert = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class Unheeded:
    """In the place of a value: it is understood and changes nothing, for this reason."""

    reason: str


def command(name: str, value: str) -> tuple[str, ...]:
    """The words of a command line."""
    from umktls.kernel.host.commands import agent_words

    return agent_words(f"{name}=", value.strip('"'))


def decimal(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise CallerError(f"mount option {name}={value}: a whole number is wanted")
    return int(value)


def number(low: int, high: int) -> Convert:
    """A whole number in these limits."""

    def convert(name: str, value: str) -> int:
        found = decimal(name, value)
        if not low <= found <= high:
            raise CallerError(f"mount option {name}={value}: must be from {low} to {high}")
        return found

    return convert


def seconds(name: str, value: str) -> float:
    """Up to a day; sshfs(1) and fuse(8) take fractions."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        raise CallerError(f"mount option {name}={value}: a whole number of seconds is wanted")
    if float(value) > 86400:
        raise CallerError(f"mount option {name}={value}: must be from 0 to 86400")
    return float(value)


def deciseconds(name: str, value: str) -> float:
    return float(number(1, 36000)(name, value)) / 10


def minutes(name: str, value: str) -> float:
    """In seconds."""
    return 60.0 * float(number(0, 1_000_000)(name, value))


def transfer_size(name: str, value: str) -> int:
    """As nfs(5): rounded down to a multiple of 4096, at least that, at most 1 MiB."""
    return max(4096, min(decimal(name, value) // 4096 * 4096, MEBIBYTE))


def one_of(choices: Mapping[str, Any], refused: Mapping[str, str] | None = None) -> Convert:
    """One of these words. refused: words that people try, each with the reason why not."""

    def convert(name: str, value: str) -> Any:
        if value in choices:
            return choices[value]
        known = ", ".join(choices)
        reason = (refused or {}).get(value)
        why = f"{reason}; there is only" if reason else "not supported here, only"
        raise CallerError(f"mount option {name}={value}: {why} {known}")

    return convert


def anything(name: str, value: str) -> None:
    """Of an option that has no effect."""


def text(name: str, value: str) -> str:
    if not value:
        raise CallerError(f"mount option {name}= needs a value")
    return value


def host(name: str, value: str) -> str:
    """A name or an address; of IPv6 with or without brackets."""
    return text(name, value.removeprefix("[").removesuffix("]"))


def certname(name: str, value: str) -> str:
    length = len(os.fsencode(text(name, value)))
    if length > CERTNAME_MAX:
        raise CallerError(f"mount option {name}= has {length} bytes; {CERTNAME_MAX} is the limit")
    return value


def path(name: str, value: str) -> Path:
    return Path(text(name, value)).expanduser().absolute()


def user(name: str, value: str) -> int:
    """A user's number, or that of a name."""
    try:
        return (
            identifier(name, value) if value.isdigit() else pwd.getpwnam(text(name, value)).pw_uid
        )
    except (KeyError, ValueError):
        raise CallerError(f"mount option {name}={value}: there is no such user here") from None


def group(name: str, value: str) -> int:
    """A group's number, or that of a name."""
    try:
        return (
            identifier(name, value) if value.isdigit() else grp.getgrnam(text(name, value)).gr_gid
        )
    except (KeyError, ValueError):
        raise CallerError(f"mount option {name}={value}: there is no such group here") from None


def identifier(name: str, value: str) -> int:
    return int(number(0, LAST_ID)(name, value))


def mode(name: str, value: str) -> int:
    """Permission bits in octal, as umask(2) has them."""
    if not re.fullmatch(r"[0-7]{1,4}", value) or int(value, 8) > 0o777:
        raise CallerError(f"mount option {name}={value}: must be octal, from 0 to 777")
    return int(value, 8)


def engine_fields(value: str) -> dict[str, str]:
    """The fields that ``--engine VALUE`` sets."""
    served = named_engines(value)
    return {f"engine_{direction}": name for direction, name in served.items()}


def engines(name: str, value: str) -> dict[str, str]:
    return engine_fields(text(name, value))


def engine(name: str, value: str) -> str:
    return get_engine(text(name, value)).name
