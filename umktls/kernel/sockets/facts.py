"""What the kernel keeps of what daemons tell about a connection: for people, and for each other."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deposited", "Failure", "TlsFacts"]


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What the daemon told about the handshake (by utrace), for people.

    client_certificate: "shown", "asked for, none shown", "not asked for", or "unknown" where the
    daemon does not say. remark: what people should know of the handshake besides, or empty.
    """

    version: str
    suite: str
    alpn: str
    peer: str
    resumed: bool
    client_certificate: str = "unknown"
    remark: str = ""

    def unshown(self, security: str) -> str | None:
        """What whoever has mounted with `security` mtls should know: that the server was not shown
        who the client is, because it did not ask (RFC 8446 section 4.3.2), or for another reason.
        None where there is nothing to say."""
        if security != "mtls" or self.client_certificate in ("shown", "unknown"):
            return None
        return f"mtls, but the client's certificate was {self.client_certificate}"

    def remarks(self, security: str) -> list[str]:
        """All that whoever made a connection with `security` should know of it."""
        return [text for text in (self.unshown(security), self.remark) if text]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why TLS failed on this connection, as the daemon told it. `final`: another connection would
    fare no better."""

    phase: str
    reason: str
    advice: str = ""
    final: bool = True

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason


class Deposited:
    """What a daemon of user `uid` has left for its successor. It holds secrets."""

    def __init__(self, data: bytes, uid: int) -> None:
        self.data = bytearray(data)
        self.uid = uid

    def wipe(self) -> None:
        """Forget it."""
        self.data[:] = bytes(len(self.data))
        self.data.clear()
