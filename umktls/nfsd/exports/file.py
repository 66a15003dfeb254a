"""The exports file, as far as exports(5) of FreeBSD goes here, and our options.

    # what is served            how                              to whom
    /srv/public                 -ro                              192.0.2.0/24 host.example.org
    /srv/data /srv/more         -tls -maproot=root
    /srv/staff                  -tlscert -ca=/etc/pki/staff.pem -email=*@example.org
    /home                       -tlscertuser

A line begins with one or more directories; options and clients follow, in any order, and hold for
all of them. Options may stand behind one dash with commas between them. A backslash at its end
continues a line; quotes hold a name with spaces together. A directory may stand in one line only.

Of exports(5) there are: -ro (-o), -maproot (-root, -r), -mapall, -alldirs and -quiet (which change
nothing: directories below an export can be mounted always), -sec=sys, -tls, -tlscert,
-tlscertuser, -network with -mask. Ours are, all of them about certificates and each as often as
wanted: -ca=FILE, -san=PATTERN, -email=PATTERN, -fingerprint=SHA256; -insecure, which believes
callers from any port (exports(5) of Linux); and -engine=NAME, -engine_tx=NAME, -engine_rx=NAME, as
`umktls serve --engine` (see engines.py for whom it counts).
"""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import TypeAlias, TypeVar

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines.choice import EngineChoice, named_engines
from umktls.nfsd.exports.exports import LEVELS, NOBODY_ID, Export, Security, Squash
from umktls.nfsd.exports.rules import Network, Rules, ca_fingerprints, fingerprint, name_pattern

__all__ = [
    "FLAGS",
    "VALUES",
    "ExportsFileError",
    "Flags",
    "Line",
    "Values",
    "lines_of",
    "parse_exports",
    "read_exports",
    "read_text",
    "read_words",
]


class ExportsFileError(CallerError):
    """The file cannot be used; the text begins with its name and the line's number."""


@dataclass(slots=True)
class Line:
    """What a line says, as it is read."""

    directories: list[str] = field(default_factory=list)
    read_only: bool = False
    security: Security = "none"
    squash: Squash = "root"
    anonymous: tuple[int, ...] = (NOBODY_ID, NOBODY_ID)
    secure: bool = True
    networks: list[Network] = field(default_factory=list)
    network: str = ""
    mask: str = ""
    authorities: set[bytes] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    fingerprints: set[bytes] = field(default_factory=set)
    engines: dict[str, str] = field(default_factory=dict)

    def rules(self) -> Rules:
        """The rules: to whom the line applies. Raises `CallerError`."""
        if self.mask and not self.network:
            raise CallerError("-mask without -network")
        if self.network:
            self.networks.append(_network(self.network, self.mask))
        return Rules(
            tuple(self.networks),
            frozenset(self.authorities),
            tuple(self.names),
            frozenset(self.fingerprints),
        )

    def exports(self) -> list[Export]:
        """The exports of the line. Raises `CallerError` for a directory that cannot be exported."""
        engine = EngineChoice(**self.engines) if self.engines else None
        if engine is not None:
            engine.engines()
        rules = self.rules()
        return [
            Export(
                directory,
                read_only=self.read_only,
                security=self.security,
                squash=self.squash,
                anonymous=self.anonymous,
                secure=self.secure,
                rules=rules,
                engine=engine,
            )
            for directory in self.directories
        ]


L = TypeVar("L", bound=Line)
Flags: TypeAlias = Mapping[str, Callable[[L], None]]
Values: TypeAlias = Mapping[str, Callable[[L, str], None]]


def read_exports(path: Path) -> list[Export]:
    """The exports of a file. Raises `ExportsFileError`."""
    return parse_exports(read_text(path), str(path))


def read_text(path: Path) -> str:
    """What is in a file of rules. Raises `ExportsFileError`."""
    try:
        return os.fsdecode(path.read_bytes())  # names are bytes, whatever their encoding
    except OSError as error:
        raise ExportsFileError(f"{path}: {error.strerror}", error.errno) from error


def parse_exports(text: str, name: str) -> list[Export]:
    """The exports of a file with this text; `name` is for errors. Raises `ExportsFileError`."""
    exports: dict[str, tuple[int, Export]] = {}
    for number, line in lines_of(text):
        try:
            for export in _parse_line(line):
                before, _ = exports.setdefault(export.path, (number, export))
                if exports[export.path][1] is not export:
                    raise CallerError(f"{export.path} is exported by line {before} already")
        except CallerError as error:
            raise ExportsFileError(f"{name}:{number}: {error}", error.errno) from error
    if not exports:
        raise ExportsFileError(f"{name}: it exports nothing")
    return [export for _, export in exports.values()]


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, continued ones as one under the first one's number."""
    held, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        start = start or number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        yield start, held + line
        held, start = "", 0
    if held:
        yield start, held


def _parse_line(text: str) -> list[Export]:
    line = Line()
    if not read_words(text, line, FLAGS, VALUES):
        return []
    if not line.directories:
        raise CallerError("no directory: a line begins with one, by its absolute name")
    return line.exports()


def read_words(text: str, line: L, flags: Flags[L], values: Values[L]) -> bool:
    """Have a line's words in `line`, with those options; whether there are any. Raises
    `CallerError`."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise CallerError(f"{error}") from error
    if not words:
        return False
    if words[0] == "V4:":
        raise CallerError("NFS version 4 is not served here: leave the line out")
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            for option in word[1:].split(","):
                _take_option(line, option, words, flags, values)
        elif word.startswith("/"):
            if line.networks or line.network:
                raise CallerError(f"the directory {word} stands behind a client")
            line.directories.append(word)
        else:
            line.networks += _client(word)
    return True


def _take_option(
    line: L, option: str, following: list[str], flags: Flags[L], values: Values[L]
) -> None:
    """An option; it may take the word behind it too."""
    name, equals, value = option.partition("=")
    if name in flags:
        if equals:
            raise CallerError(f"-{name} takes no value")
        flags[name](line)
        return
    take = values.get(name)
    if take is None:
        known = ", ".join(f"-{each}" for each in sorted((*flags, *values)))
        raise CallerError(f"there is no option -{name}; there are {known}")
    if not equals:
        if not following:
            raise CallerError(f"-{name} takes a value")
        value = following.pop(0)
    take(line, value)


# The options.


def _set(**values: object) -> Callable[[Line], None]:
    def take(line: Line) -> None:
        for name, value in values.items():
            setattr(line, name, value)

    return take


def _demand(security: Security) -> Callable[[Line], None]:
    """The strongest of a line's demands counts."""

    def take(line: Line) -> None:
        line.security = max(line.security, security, key=LEVELS.__getitem__)

    return take


def _assign(name: str) -> Callable[[Line, str], None]:
    return lambda line, value: setattr(line, name, value)


def _map_root(line: Line, value: str) -> None:
    line.anonymous = _ids(value)
    line.squash = "none" if line.anonymous[0] == 0 else "root"


def _map_all(line: Line, value: str) -> None:
    line.anonymous, line.squash = _ids(value), "all"


def _sec(line: Line, value: str) -> None:
    if value != "sys":
        raise CallerError(f"-sec={value} is not served here, only -sec=sys; see -tls for TLS")


FLAGS: Mapping[str, Callable[[Line], None]] = {
    "ro": _set(read_only=True),
    "o": _set(read_only=True),
    "alldirs": _set(),
    "quiet": _set(),
    "tls": _demand("tls"),
    "tlscert": _demand("mtls"),
    "tlscertuser": _demand("certuser"),
    "insecure": _set(secure=False),
}
VALUES: Mapping[str, Callable[[Line, str], None]] = {
    "maproot": _map_root,
    "root": _map_root,
    "r": _map_root,
    "mapall": _map_all,
    "sec": _sec,
    "network": _assign("network"),
    "mask": _assign("mask"),
    "ca": lambda line, value: line.authorities.update(ca_fingerprints(Path(value))),
    "san": lambda line, value: line.names.append(name_pattern(value)),
    "email": lambda line, value: line.names.append(name_pattern(f"email:{value}")),
    "engine": lambda line, value: line.engines.update(named_engines(value)),
    "engine_tx": lambda line, value: line.engines.update(named_engines(f"tx={value}")),
    "engine_rx": lambda line, value: line.engines.update(named_engines(f"rx={value}")),
    "fingerprint": lambda line, value: line.fingerprints.add(fingerprint(value)),
}


def _ids(text: str) -> tuple[int, ...]:
    """uid and gids of `user`, with all groups; of `user:`, with none; of `user:group:group`."""
    user, colon, groups = text.partition(":")
    uid, known = _user(user)
    if not colon:
        return uid, *known
    gids = tuple(_group(group) for group in groups.split(":") if group)
    return uid, *(gids or (NOBODY_ID,))


def _user(text: str) -> tuple[int, tuple[int, ...]]:
    """A user's number and groups; a number that nobody has is in no group."""
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError) as error:
        if text.isdecimal() and int(text) < 2**32:
            return int(text), (NOBODY_ID,)
        raise CallerError(f"there is no user {text!r}") from error
    return found.pw_uid, tuple(os.getgrouplist(found.pw_name, found.pw_gid))


def _group(text: str) -> int:
    if text.isdecimal() and int(text) < 2**32:
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError as error:
        raise CallerError(f"there is no group {text!r}") from error


def _network(text: str, mask: str) -> Network:
    try:
        return ipaddress.ip_network(f"{text}/{mask}" if mask else text, strict=False)
    except ValueError as error:
        raise CallerError(f"{text} is no network: {error}") from error


def _client(text: str) -> list[Network]:
    """The addresses of a client: an address, a network, or the name of a host."""
    if "/" in text:
        return [_network(text, "")]
    try:
        return [ipaddress.ip_network(text)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(text, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CallerError(f"cannot find the host {text!r}: {error.strerror}") from error
    except UnicodeError as error:
        raise CallerError(f"{text!r} is no host's name") from error
    return [ipaddress.ip_network(str(address[0]).partition("%")[0]) for *_, address in found]
