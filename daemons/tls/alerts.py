"""TLS alerts: what one that arrives means, to the session and to whoever runs this side.

Their numbers and names are in `umktls.abi.alerts`.
"""

from __future__ import annotations

from umktls.abi.alerts import AlertLevel, TlsAlert, alert_name
from umktls.dataclass import dataclass
from umktls.errors import PeerError
from umktls.ktls.session.errors import NULL_ON_ONE_SIDE
from umktls.ktls.session.suites import TLS_1_3

__all__ = ["OLDER_TLS", "Alert", "Breach", "advice_for"]

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
    "access_denied": "the peer refuses us. Linux's tlshd says so of every certificate that it does "
    "not like, whatever the reason (CA, name, dates): look into its log, which is in syslog there",
    "internal_error": "something failed on the peer's side; look into its log",
}


# Behind the handshake these are about a record, and no version is at issue any more.
ADVICE_BEHIND = dict.fromkeys(
    ("protocol_version", "unexpected_message", "record_overflow"),
    f"the peer cannot read what it is sent; {NULL_ON_ONE_SIDE}",
)


def advice_for(number: int, *, behind: bool = False) -> str:
    """What a person can do when the peer sent alert `number`, `behind` the handshake or in it."""
    advice = ADVICE | ADVICE_BEHIND if behind else ADVICE
    return advice.get(alert_name(number), "look into the peer's log for the reason")


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
        return "warning" if self.level == AlertLevel.WARNING else "fatal"

    @property
    def closes(self) -> bool:
        """Whether this is an orderly end."""
        return self.description == TlsAlert.CLOSE_NOTIFY

    def ends(self, version: int) -> bool:
        """Whether a session of that TLS version (such as 0x0304) ends by it.

        In TLS 1.3 each does but user_canceled, which announces a close_notify (RFC 8446 section
        6.1), those that nobody knows too (section 6). Before, it is as the level says (RFC 5246
        section 7.2).
        """
        if self.closes:
            return True
        if version >= TLS_1_3:
            return self.description != TlsAlert.USER_CANCELED
        return self.level != AlertLevel.WARNING

    def encode(self) -> bytes:
        return bytes((self.level, self.description))

    @classmethod
    def fatal(cls, description: int) -> Alert:
        return cls(AlertLevel.FATAL, description)

    @classmethod
    def decode_untrusted(cls, data: bytes) -> Alert:
        """An alert record's content; `Breach` unless it is exactly one alert (RFC 8446 sections
        5.1 and 5.4)."""
        if len(data) != 2:
            raise Breach(
                f"an alert record with {len(data)} bytes instead of 2",
                TlsAlert.DECODE_ERROR if data else TlsAlert.UNEXPECTED_MESSAGE,
            )
        return cls(data[0], data[1])
