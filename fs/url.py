"""``nfs://HOST[:PORT]/EXPORT/PATH`` (RFC 2224): a server's file, for who mounts nothing."""

from __future__ import annotations

import os
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from umktls.dataclass import dataclass
from umktls.errors import CallerError

__all__ = ["SCHEME", "Url", "is_url"]

SCHEME = "nfs://"
_HOST = r"\[(?P<bracketed>[^\]]+)\]|(?P<host>[^:/?@\[\]]+)"
_URL = re.compile(
    rf"nfs://(?:{_HOST})(?::(?P<port>[0-9]*))?(?P<path>/[^?]*)?(?:\?(?P<query>.*))?",
    re.DOTALL | re.IGNORECASE,
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORM = "nfs://HOST[:PORT]/EXPORT/PATH (an IPv6 address goes in brackets)"
# What libnfs has behind the question mark and is the same here: by its name there, the mount
# option. A URL may come from anywhere, so it can name neither files nor programs of this machine.
_QUERY = {
    "xprtsec": "xprtsec",
    "version": "vers",
    "vers": "vers",
    "nfsport": "port",
    "mountport": "mountport",
}


@dataclass(frozen=True, slots=True)
class Url:
    """`host`: name or address (IPv6 without brackets); `path`: absolute and without dots (RFC 3986
    section 5.2.4), as the bytes it stands for; a slash at its end stays. `options`: as of mount."""

    host: str
    port: int | None
    path: bytes
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read it; what is not a letter of a URL may be there itself, or as %XX. Raises
        `CallerError`."""
        match = _URL.fullmatch(text)
        if match is None:
            why = ": NFS knows no user by name" if "@" in text.partition("/")[2] else ""
            raise CallerError(f"{text!r} is not {_FORM}{why}")
        if _BAD_ESCAPE.search(match["path"] or ""):
            raise CallerError(
                f"a % in {text!r} does not begin an escape such as %20: say it as %25"
            )
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 65536:
            raise CallerError(f"{port} in {text!r} is not a TCP port (1 to 65535)")
        path = without_dots(unquote_to_bytes(os.fsencode(match["path"] or "/")))
        if b"\0" in path:
            raise CallerError(f"a name in {text!r} has a NUL in it, which no file has")
        host = match["host"] or match["bracketed"].replace("%25", "%")  # a zone (RFC 6874)
        return cls(host, port, path, options_of(match["query"] or "", text))

    def at(self, path: bytes) -> Url:
        """Another path on the same server."""
        return Url(self.host, self.port, path, self.options)

    def __str__(self) -> str:
        """Without the options."""
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{SCHEME}{host}{port}{quote_from_bytes(self.path)}"


def is_url(text: str) -> bool:
    """Whether it is meant to be one."""
    return text[: len(SCHEME)].lower() == SCHEME


def without_dots(path: bytes) -> bytes:
    """The same without empty, `.` and `..` parts; none leads above the root."""
    names: list[bytes] = []
    parts = path.split(b"/")
    for part in parts:
        if part == b"..":
            names = names[:-1]
        elif part not in (b"", b"."):
            names.append(part)
    end = b"/" if names and parts[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(names) + end


def options_of(query: str, text: str) -> tuple[str, ...]:
    """What stands behind the question mark, as mount options. Raises `CallerError`."""
    found = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in _QUERY or not re.fullmatch(r"[\w.]+", value):
            known = ", ".join(_QUERY)
            raise CallerError(
                f"{pair!r} in {text!r}: behind the ? of a URL there may be {known}, each with a "
                "value, and all else goes behind -o; a ? in a name is %3F"
            )
        found.append(f"{_QUERY[name]}={value}")
    return tuple(found)
