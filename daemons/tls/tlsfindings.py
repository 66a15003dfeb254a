"""What a TLS connection's adapter says and finds out, without OpenSSL's own types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from enum import Enum

from umktls.dataclass import dataclass
from umktls.errors import PeerError

from .failure import VerifyProblem

__all__ = ["ClientCertificates", "Findings", "NoCommonProtocol", "Progress", "TlsError"]


class TlsError(PeerError):
    """OpenSSL gave up. The text is OpenSSL's; `Endpoint.findings` often knows better."""


class NoCommonProtocol(TlsError):
    """The client's ALPN offer does not hold ``sunrpc``."""


class ClientCertificates(Enum):
    """What a server wants to see of a client."""

    IGNORE = "ignore"
    REQUEST = "request"
    DEMAND = "demand"


class Progress(Enum):
    """What feeding a record to a finished connection led to."""

    NOTHING = "nothing"  # processed; there may be output
    CLOSED = "closed"  # the peer's close_notify


@dataclass(slots=True)
class Findings:
    """What OpenSSL's callbacks told about one connection."""

    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    problem: VerifyProblem | None = None
    problems: list[VerifyProblem] = field(default_factory=list)
    alert_received: int | None = None
    alert_sent: int | None = None
    offered: list[bytes] = field(default_factory=list)
    certificate_asked: bool = False
    certificate_shown: bool = False
    # Gets each line of the key log, without its end, before what it opens is sent or read.
    on_secret: Callable[[bytes], None] | None = field(default=None, repr=False)
