"""Why a handshake failed, in words for the person who typed `mount`.

Each failure has a phase (where in the handshake), a reason (what, on what, why) and an advice (what
to do). The same three go to the daemon's log, to the kernel's trace and to the mount's error.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from umktls.abi.alerts import TlsAlert, alert_name
from umktls.dataclass import dataclass
from umktls.errors import PeerError, UmktlsError
from umktls.userland.streams import DeadlinePassed, NotTls

from .alerts import advice_for
from .certtexts import UNREADABLE, extension_of, issuer_text, subject_text

__all__ = [
    "PHASES",
    "HandshakeFailure",
    "VerifyProblem",
    "alert_received",
    "certificate_names",
    "lost",
    "unreadable",
    "verify_failure",
]

PHASES = {
    "setup": "before the first byte: the daemon's own files, the kernel's options",
    "connection": "the connection was lost, or silent, in the handshake: may be tried again",
    "tls": "the TLS handshake proper",
    "certificate": "the server's certificate",
    "name": "the server certificate's names against the name that was asked for",
    "client-certificate": "the client's certificate",
    "alpn": "the application protocol, which must be sunrpc (RFC 9289), if any",
    "keys": "deriving the keys and proving the sequence numbers",
    "ktls": "putting the keys into the kernel",
    "alert": "a fatal alert behind the handshake: so TLS 1.3 servers refuse a client's certificate",
}


class HandshakeFailure(PeerError):
    """A handshake that came to nothing. `phase` is a key of `PHASES`."""

    default_errno = errno.EACCES

    def __init__(self, phase: str, reason: str, advice: str) -> None:
        assert phase in PHASES
        super().__init__(f"{reason}; {advice}")
        self.phase = phase
        self.reason = reason
        self.advice = advice

    def event(self, number: int) -> dict[str, Any]:
        """The trace event of this failure on descriptor `number`."""
        return {
            "event": "handshake-failed",
            "fd": number,
            "phase": self.phase,
            "reason": self.reason,
            "advice": self.advice,
        }


def alert_received(number: int) -> HandshakeFailure:
    """The peer ended the handshake with alert `number`."""
    return HandshakeFailure(
        "tls",
        f"the peer refused the handshake with the alert {alert_name(number)}",
        advice_for(number),
    )


@dataclass(frozen=True, slots=True)
class VerifyProblem:
    """What OpenSSL's verification found: X509_V_ERR `code` and `text`, at `depth` of the chain.

    `certificate` is None where it cannot be read (see certtexts.py)."""

    code: int
    text: str
    depth: int
    certificate: x509.Certificate | None

    @property
    def alert(self) -> int:
        """The alert that tells the peer."""
        return VERIFY_ALERTS.get(self.code, TlsAlert.CERTIFICATE_UNKNOWN)


# Where the trusted CAs and the revocation lists are given: to a mount or server, or to a daemon.
_CAS = "the ca.pem of --certs (--ca of umktls probe, -l of the daemon)"
_LISTS = "the file of -o crl= or --crl (-r of the daemon)"
# X509_V_ERR_* (x509_vfy.h) -> reason, advice. {whose} is "the server's certificate", {asked} the
# name that was asked for, {trust} where the trusted CAs come from.
_UNKNOWN_ISSUER = (
    "{whose} was signed by {issuer}, which is not among the CAs in {trust}",
    f"give the CA certificate that signed it, as {_CAS}",
)
_SELF_SIGNED = (
    "{whose} is self-signed by {issuer}, which is not among the CAs in {trust}",
    f"if it is meant to be trusted, put that certificate into {_CAS}",
)
VERIFY_TEXTS = {
    2: _UNKNOWN_ISSUER,
    20: _UNKNOWN_ISSUER,
    21: _UNKNOWN_ISSUER,
    18: _SELF_SIGNED,
    19: _SELF_SIGNED,
    7: (
        "{whose} has a signature that {issuer} in {trust} did not make",
        f"the CA was probably made anew under its old name: give the one that signed it, as {_CAS}",
    ),
    30: _UNKNOWN_ISSUER,  # the key identifiers differ: another CA of the same name
    9: (
        "{whose} is not valid before {not_before}",
        "check the clocks of both machines, or wait",
    ),
    10: ("{whose} expired at {not_after}", "renew it, or check the clocks of both machines"),
    23: ("{whose} was revoked", "it must be replaced by a new one"),
    3: (
        "{whose} cannot be checked, there is no revocation list of {issuer}",
        f"put one list for each CA of the chain into {_LISTS}",
    ),
    8: (
        "{whose} cannot be checked, {issuer} has not signed the revocation list of its name",
        "get the list from that CA again",
    ),
    11: (
        "{whose} cannot be checked, the revocation list of {issuer} is not valid yet",
        "check this machine's clock",
    ),
    12: (
        "{whose} cannot be checked, the revocation list of {issuer} is out of date",
        f"get a new one for {_LISTS}, and send SIGHUP",
    ),
    26: (
        "{whose} is not meant for this purpose (its extended key usage)",
        "get one with {purpose}",
    ),
    62: (
        "{whose} is for {names}, and the name asked for was {asked}",
        "mount by one of these names, or get a certificate with a subjectAltName for {asked}",
    ),
    64: (
        "{whose} is for {names}, and the address asked for was {asked}",
        "mount by one of these names, or get a certificate with an IP subjectAltName for {asked}",
    ),
}
# What the peer is told, as RFC 8446 section 6.2 describes the alerts. Where a list is missing, out
# of date or wrong, that says nothing about the peer's certificate or CA, and it cannot mend it.
VERIFY_ALERTS = {
    **dict.fromkeys((2, 18, 19, 20, 21, 30), TlsAlert.UNKNOWN_CA),
    **dict.fromkeys((3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54), TlsAlert.CERTIFICATE_UNKNOWN),
    7: TlsAlert.BAD_CERTIFICATE,
    **dict.fromkeys((9, 10), TlsAlert.CERTIFICATE_EXPIRED),
    23: TlsAlert.CERTIFICATE_REVOKED,
    26: TlsAlert.UNSUPPORTED_CERTIFICATE,
    **dict.fromkeys((62, 64), TlsAlert.BAD_CERTIFICATE),
}
# OpenSSL makes an alert of the verification's code (ssl_x509err2alert), which is not always what
# `VERIFY_ALERTS` says: a missing revocation list is unknown_ca there. So it gets a code that stands
# for the right one; what was found stays in the findings.
CODE_FOR_ALERT = {
    TlsAlert.UNKNOWN_CA: 20,
    TlsAlert.BAD_CERTIFICATE: 28,  # X509_V_ERR_CERT_REJECTED
    TlsAlert.CERTIFICATE_EXPIRED: 10,
    TlsAlert.CERTIFICATE_REVOKED: 23,
    TlsAlert.UNSUPPORTED_CERTIFICATE: 26,
    TlsAlert.CERTIFICATE_UNKNOWN: 54,  # as each code that is not in OpenSSL's table
}
_OTHER_PROBLEM = ("{whose} does not verify: {text}", "get another certificate for the peer")
_NAME_CODES = (62, 64)
_ISSUER_CODES = (2, 7, 18, 19, 20, 21, 30)


def verify_failure(
    problem: VerifyProblem, *, of_server: bool, trust: str, asked: str = ""
) -> HandshakeFailure:
    """The failure for a verification problem of the server's or the client's certificate."""
    certificate = problem.certificate
    whose = "the server's certificate" if of_server else "the client's certificate"
    phase = "certificate" if of_server else "client-certificate"
    if certificate is None:
        return unreadable(f"does not verify ({problem.text})", of_server=of_server)
    if problem.depth:
        whose = f"the CA certificate {subject_text(certificate)}"
    fields = {
        "whose": whose,
        "issuer": issuer_text(certificate) or "an issuer without a name",
        "names": certificate_names(certificate),
        "not_before": f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC",
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC",
        "purpose": "serverAuth" if of_server else "clientAuth",
        "trust": trust,
        "asked": asked,
        "text": problem.text,
    }
    reason, advice = VERIFY_TEXTS.get(problem.code, _OTHER_PROBLEM)
    if problem.code in _ISSUER_CODES:
        reason += _another_of_the_name(certificate, trust)
    if problem.code in _NAME_CODES:
        phase = "name"
    return HandshakeFailure(phase, reason.format(**fields), advice.format(**fields))


def unreadable(what: str, *, of_server: bool) -> HandshakeFailure:
    """The failure for a certificate that OpenSSL can read and this daemon cannot; what is wrong
    with it, or happened to it, besides."""
    side = "server" if of_server else "client"
    return HandshakeFailure(
        "certificate" if of_server else "client-certificate",
        f"the {side}'s certificate, or one of its chain, {what}, and what is in it cannot be read: "
        "it breaks the rules for certificates (RFC 5280)",
        f"get another certificate for the {side}",
    )


def _another_of_the_name(certificate: x509.Certificate, trust: str) -> str:
    """Names do not tell apart two CAs that are called the same: what does, of those in the file
    `trust`, and of the one that signed: it itself where it came along (a CA that is self-signed),
    or its key's identifier, if the certificate names that."""
    try:
        known = x509.load_pem_x509_certificates(Path(trust).read_bytes())
        namesakes = [one for one in known if one.subject == certificate.issuer]
    except (OSError, *UNREADABLE):
        return ""
    if not namesakes:
        return ""
    listed = ", ".join(_fingerprint(one) for one in namesakes)
    return (
        f" (the CA of that name there is another one: SHA-256 fingerprint {listed}"
        f"{_what_tells_it(certificate, namesakes)})"
    )


def _what_tells_it(certificate: x509.Certificate, namesakes: list[x509.Certificate]) -> str:
    if subject_text(certificate) == issuer_text(certificate):
        return f", and this one's is {_fingerprint(certificate)}"
    signer = _signing_key(certificate)
    if signer is None:
        return ""
    own = ", ".join(_own_key(one).hex(":") for one in namesakes)
    return f"; key identifier {own}, and the certificate names {signer.hex(':')}"


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":")


def _signing_key(certificate: x509.Certificate) -> bytes | None:
    """The identifier of the key that signed it (RFC 5280 section 4.2.1.1)."""
    found = extension_of(certificate, x509.AuthorityKeyIdentifier)
    return None if found is None else found.key_identifier


def _own_key(authority: x509.Certificate) -> bytes:
    found = extension_of(authority, x509.SubjectKeyIdentifier)
    if found is None:
        return x509.SubjectKeyIdentifier.from_public_key(authority.public_key()).digest
    return found.digest


def certificate_names(certificate: x509.Certificate) -> str:
    """The DNS names and addresses of the subjectAltName, as a list for a person."""
    found = extension_of(certificate, x509.SubjectAlternativeName)
    if found is None:
        return "no name at all (it has no subjectAltName that can be read)"
    names = [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]
    return ", ".join(names) if names else "no DNS name and no address"


def lost(error: UmktlsError, records: int) -> HandshakeFailure:
    """The connection ended, or went silent, before the handshake did."""
    when = f"after {records} records of its own" if records else "before its first record"
    if isinstance(error, DeadlinePassed):
        return HandshakeFailure(
            "connection",
            f"the peer fell silent {when}, and the time for the handshake is over",
            "check that the peer's handshake daemon runs, and look into its log",
        )
    if isinstance(error, NotTls):
        return HandshakeFailure(
            "tls",
            f"the peer sent {error} ({when})",
            "something else than TLS answers there: check the address and the port",
        )
    return HandshakeFailure(
        "connection",
        f"the peer closed the connection in the handshake, {when}",
        "check that the peer's handshake daemon runs, and look into its log",
    )
