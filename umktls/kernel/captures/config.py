"""A capture that somebody wants, and what its file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from umktls.dataclass import dataclass
from umktls.errors import CallerError

__all__ = ["DEFAULT_SIZE", "LOUD", "CaptureConfig", "heading", "parse_size"]

# So much of a file, in bytes.
DEFAULT_SIZE = 256 << 20
MIN_SIZE = 64 << 10
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# For whoever asks for secrets.
LOUD = (
    "the capture will hold SECRETS: the keys of the TLS sessions, and RPC in clear. Whoever gets "
    "{path} can read all that was said"
)


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    """Its file, whether with secrets, and after how many bytes the file is begun anew."""

    path: Path
    secrets: bool = False
    size: int = DEFAULT_SIZE

    @classmethod
    def of(cls, path: Path | None, secrets: bool, size: str | None) -> Self | None:
        """From a command line; None where nobody wants one. Raises `CallerError`."""
        if path is None:
            for given, option in ((secrets, "--secrets"), (size, "--capture-size")):
                if given:
                    raise CallerError(f"{option} is about a capture: name its file with --capture")
            return None
        return cls(path.absolute(), secrets, DEFAULT_SIZE if size is None else parse_size(size))

    @property
    def warning(self) -> str | None:
        """What whoever asked has to know."""
        return LOUD.format(path=self.path) if self.secrets else None

    def called(self, word: object) -> CaptureConfig:
        """For one of several hosts: NAME-WORD.pcapng."""
        path = self.path.with_name(f"{self.path.stem}-{word}{self.path.suffix}")
        return CaptureConfig(path, self.secrets, self.size)


def heading(host: str, *, secrets: bool) -> list[str]:
    """The comments at the head of a file."""
    what = (
        "With SECRETS: keys of TLS sessions, and RPC in clear. Whoever has this file can read what "
        "was said."
        if secrets
        else "Without secrets: what was sealed stays sealed, and RPC in TLS is not in the file."
    )
    return [
        f"{what} (umktls, host {host})",
        "Bytes, addresses, ports, directions and times are those of the host's TCP sockets; the "
        "rest of the headers is made up, and sequence numbers begin at 0.",
    ]


def parse_size(text: str) -> int:
    """Bytes, with K, M or G behind the number for their powers of 1024. Raises `CallerError`."""
    number, unit = text.strip().upper().removesuffix("IB").removesuffix("B"), 1
    if number and number[-1] in UNITS:
        number, unit = number[:-1], UNITS[number[-1]]
    if not number.isdecimal() or not (size := int(number) * unit) >= MIN_SIZE:
        raise CallerError(f"a size of {text!r}: say bytes, or 64M, 2G; at least 64K")
    return size
