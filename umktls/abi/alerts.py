"""TLS alerts (ContentType 21): numbers and names, of RFC 8446 section 6, RFC 7301 section 3.2."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["AlertLevel", "TlsAlert", "alert_name"]


class AlertLevel(IntEnum):
    """The first byte. TLS 1.3 goes by the description alone (RFC 8446 section 6)."""

    WARNING = 1
    FATAL = 2


class TlsAlert(IntEnum):
    """AlertDescription, the second byte."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    NO_RENEGOTIATION = 100  # of TLS 1.2
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


_NAMES = {alert.value: alert.name.lower() for alert in TlsAlert}


def alert_name(number: int) -> str:
    """The RFC's name of alert `number`, or ``alert N``."""
    return _NAMES.get(number, f"alert {number}")
