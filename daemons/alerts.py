"""TLS alerts: their names, and what one that arrives means to whoever runs this side.

Numbers and names: RFC 8446 section 6, RFC 7301 section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from umktls.errors import PeerError

__all__ = [
    "DECODE_ERROR",
    "UNEXPECTED_MESSAGE",
    "Breach",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "CLOSE_NOTIFY",
    "ILLEGAL_PARAMETER",
    "INTERNAL_ERROR",
    "NO_APPLICATION_PROTOCOL",
    "PROTOCOL_VERSION",
    "UNKNOWN_CA",
    "WARNING",
    "Alert",
    "advice_for",
    "alert_name",
]

WARNING = 1
FATAL = 2

CLOSE_NOTIFY = 0
UNEXPECTED_MESSAGE = 10
BAD_RECORD_MAC = 20
DECODE_ERROR = 50
INTERNAL_ERROR = 80
PROTOCOL_VERSION = 70
CERTIFICATE_REVOKED = 44
CERTIFICATE_EXPIRED = 45
CERTIFICATE_UNKNOWN = 46
UNKNOWN_CA = 48
CERTIFICATE_REQUIRED = 116
NO_APPLICATION_PROTOCOL = 120
ILLEGAL_PARAMETER = 47

NAMES = {
    CLOSE_NOTIFY: "close_notify",
    UNEXPECTED_MESSAGE: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    CERTIFICATE_REVOKED: "certificate_revoked",
    CERTIFICATE_EXPIRED: "certificate_expired",
    CERTIFICATE_UNKNOWN: "certificate_unknown",
    ILLEGAL_PARAMETER: "illegal_parameter",
    UNKNOWN_CA: "unknown_ca",
    49: "access_denied",
    DECODE_ERROR: "decode_error",
    51: "decrypt_error",
    PROTOCOL_VERSION: "protocol_version",
    71: "insufficient_security",
    INTERNAL_ERROR: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    CERTIFICATE_REQUIRED: "certificate_required",
    NO_APPLICATION_PROTOCOL: "no_application_protocol",
}

# These words are read in a mount's error, in the daemon's log and by who probes: they name the
# options of a mount or server, and those of a daemon that was started by hand behind them.
OLDER_TLS = (
    "to have TLS 1.2: mount with -o tls1_2 (rpctlscd -2), serve with --daemon-args=-2 (rpctlssd -2)"
)

# What to do about an alert that the peer sent, whichever side we are.
ADVICE = {
    "unknown_ca": "the peer does not trust the CA that signed our certificate: give the peer that "
    "CA, or us a certificate from a CA that it trusts",
    "bad_certificate": "the peer does not accept our certificate; its log says why",
    "certificate_expired": "renew our certificate",
    "certificate_revoked": "our certificate was revoked: get a new one",
    "certificate_required": "the peer demands a client certificate: mount with -o mtls, with "
    "cert.pem and certkey.pem in client/ of --certs (rpctlscd: -m, and -D for their directory)",
    "certificate_unknown": "the peer does not accept our certificate; its log says why",
    "handshake_failure": "nothing in common, or a certificate is missing: compare the cipher "
    "suites, and look for a demand for client certificates in the peer's log",
    "protocol_version": "no version of TLS in common: RPC-with-TLS is to have TLS 1.3 on both "
    f"sides; {OLDER_TLS}",
    "no_application_protocol": "the peer does not speak the ALPN protocol sunrpc: it is no "
    "RPC-with-TLS endpoint, or one that predates RFC 9289",
    "unrecognized_name": "the server has no certificate for the name that was asked for",
    "access_denied": "the peer knows us and refuses us: look at its access rules",
    "internal_error": "something failed on the peer's side; look into its log",
}


def alert_name(number: int) -> str:
    """The RFC's name of alert `number`, or ``alert N``."""
    return NAMES.get(number, f"alert {number}")


def advice_for(number: int) -> str:
    """What a person can do when the peer sent alert `number`."""
    return ADVICE.get(alert_name(number), "look into the peer's log for the reason")


class Breach(PeerError):
    """The peer broke the protocol in a way that TLS has an alert for."""

    def __init__(self, text: str, alert: int) -> None:
        super().__init__(text)
        self.alert = alert


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it stands in a record of type 21."""

    level: int
    description: int

    @property
    def name(self) -> str:
        return alert_name(self.description)

    @property
    def level_name(self) -> str:
        """TLS 1.3 ignores the level: everything but a closure is fatal (section 6.2)."""
        return "warning" if self.level == WARNING else "fatal"

    @property
    def closes(self) -> bool:
        """Whether this is an orderly end."""
        return self.description == CLOSE_NOTIFY

    def encode(self) -> bytes:
        return bytes((self.level, self.description))

    @classmethod
    def fatal(cls, description: int) -> Alert:
        return cls(FATAL, description)

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Alert:
        """An alert record's content; `Breach` unless it is exactly one alert."""
        if len(data) != 2:
            raise Breach(f"an alert record with {len(data)} bytes instead of 2", DECODE_ERROR)
        return cls(data[0], data[1])
