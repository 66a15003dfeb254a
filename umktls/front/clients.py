"""Who may come in: the file of clients, in the words of an exports file.

    # whom                        what they must have
    192.0.2.0/24                  -tls
    198.51.100.7                  -clear
    -tlscert -ca=/etc/pki/staff.pem -email=*@example.org
    -network 203.0.113.0 -mask 255.255.255.0 -san=*.example.org

A line that fits lets a connection in: all that it says must be met (umktls.nfsd.exports.rules). It
asks for TLS at least, unless it says -clear; rules about certificates ask for one by themselves.
The rules are about connections, as a front does not know what the calls in them are for. So there
are no directories here, and no users: those are the backend's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.nfsd.exports.exports import LEVELS, MUTUAL, Security, level_of, security_of
from umktls.nfsd.exports.file import FLAGS as EXPORTS_FLAGS
from umktls.nfsd.exports.file import VALUES as EXPORTS_VALUES
from umktls.nfsd.exports.file import (
    ExportsFileError,
    Flags,
    Line,
    Values,
    lines_of,
    read_text,
    read_words,
)
from umktls.nfsd.exports.rules import ANYBODY, Rules
from umktls.rpc.server import Peer

__all__ = ["Allowed", "Clients", "parse_clients", "read_clients"]


@dataclass(frozen=True, slots=True)
class Allowed:
    """Those whose connection has at least this level of security, and who meet the rules."""

    security: Security = "tls"
    rules: Rules = ANYBODY

    @property
    def level(self) -> int:
        """What a connection must have, as a number of LEVELS."""
        return max(LEVELS[self.security], MUTUAL if self.rules.about_certificates else 0)

    def objection(self, peer: Peer) -> str | None:
        """Why a client does not meet them; None if it does."""
        if level_of(peer) < self.level:
            return f"{security_of(self.level)} is asked for, and the connection has less"
        return self.rules.objection(peer)


class Clients:
    """All who may come in: those whom one of the lines lets in."""

    def __init__(self, lines: Sequence[Allowed]) -> None:
        self.lines = tuple(lines)

    @property
    def security(self) -> Security:
        """What all lines ask for at least."""
        return security_of(min(line.level for line in self.lines))

    def knows(self, address: Any) -> bool:
        """Whether a client with that socket address may come in, with whatever it has to show."""
        return any(line.rules.includes(address) for line in self.lines)

    def objection(self, peer: Peer) -> str | None:
        """Why a client may not come in as it is; None if it may."""
        why = None
        for line in self.lines:
            if line.rules.includes(peer.address):
                objection = line.objection(peer)
                if objection is None:
                    return None
                why = why or objection
        return why or "no rule is for its address"


# The file.


@dataclass(slots=True)
class ClientLine(Line):
    """A line of it, as it is read."""

    clear: bool = False


def may_be_clear(line: ClientLine) -> None:
    """What -clear says."""
    line.clear = True


FLAGS: Flags[ClientLine] = {
    "clear": may_be_clear,
    **{name: EXPORTS_FLAGS[name] for name in ("tls", "tlscert")},
}
VALUES: Values[ClientLine] = {
    name: EXPORTS_VALUES[name] for name in ("network", "mask", "ca", "san", "email", "fingerprint")
}


def read_clients(path: Path) -> Clients:
    """The clients of a file. Raises `ExportsFileError`, which names the line."""
    return parse_clients(read_text(path), str(path))


def parse_clients(text: str, name: str) -> Clients:
    """The clients of a file with this text; `name` is for errors. Raises `ExportsFileError`."""
    found: list[Allowed] = []
    for number, words in lines_of(text):
        line = ClientLine()
        try:
            if read_words(words, line, FLAGS, VALUES):
                found.append(allowed(line))
        except CallerError as error:
            raise ExportsFileError(f"{name}:{number}: {error}", error.errno) from error
    if not found:
        raise ExportsFileError(f"{name}: it lets nobody in")
    return Clients(found)


def allowed(line: ClientLine) -> Allowed:
    """Who comes in by a line. Raises `CallerError`."""
    if line.directories:
        raise CallerError(
            f"{line.directories[0]}: which directories are served is said at the backend; a line "
            "here is about clients"
        )
    one = Allowed(line.security, line.rules())
    if not line.clear:
        return one if one.level else Allowed("tls", one.rules)
    if one.level:
        raise CallerError("-clear, and something that only TLS brings: one of both")
    return one
