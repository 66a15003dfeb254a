"""What is mounted: ``HOST[:PORT]:/EXPORT``, as mount.nfs writes it, with an optional port."""

from __future__ import annotations

import re

from umktls.dataclass import dataclass
from umktls.errors import CallerError

from .url import is_url

__all__ = ["Source"]

_HOST = r"\[(?P<bracketed>[^\]]+)\]|(?P<host>[^:/\[\]]+)"
_SOURCE = re.compile(rf"(?:{_HOST})(?::(?P<port>[0-9]+))?:(?P<export>/.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """A server's name or address (IPv6 without brackets), its port if one was given, its export."""

    host: str
    port: int | None
    export: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``HOST[:PORT]:/EXPORT``; an IPv6 address stands in brackets. Raises CallerError."""
        if is_url(text):
            raise CallerError(
                f"{text!r} is a URL, which umktls ls, cat, cp and others take; what is mounted is "
                "written HOST[:PORT]:/EXPORT"
            )
        match = _SOURCE.fullmatch(text)
        if match is None:
            raise CallerError(
                f"{text!r} is not HOST[:PORT]:/EXPORT (an IPv6 address goes in brackets, "
                "as in [::1]:2049:/export)"
            )
        port = None if match["port"] is None else int(match["port"])
        if port is not None and not 0 < port < 65536:
            raise CallerError(f"{port} in {text!r} is not a TCP port (1 to 65535)")
        return cls(match["bracketed"] or match["host"], port, match["export"])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{host}{port}:{self.export}"
