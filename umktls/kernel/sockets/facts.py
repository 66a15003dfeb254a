"""What a daemon has told about a connection, as far as the kernel keeps it."""

from __future__ import annotations

from umktls.dataclass import dataclass
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import AuthSys

__all__ = ["Failure", "Identity", "TlsFacts"]


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


@dataclass(slots=True)
class Identity:
    """Who the peer is, from its certificate. `flags` are those of rpctlssd's answer to CONNECT
    (`RpctlsFlags`); `user` is the one that the certificate names, for AUTH_SYS calls."""

    flags: int = 0
    certificate: PeerCertificate | None = None
    user: AuthSys | None = None
