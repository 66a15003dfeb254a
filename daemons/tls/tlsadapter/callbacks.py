"""What OpenSSL calls back: it notes in the connection's `Findings` what it is told."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto

from umktls.abi.alerts import AlertLevel, TlsAlert

from ..certtexts import UNREADABLE
from ..failure import CODE_FOR_ALERT, VERIFY_ALERTS, VerifyProblem
from ..tlsfindings import Findings, NoCommonProtocol
from .binding import ffi, lib

__all__ = ["ALPN", "on_info", "on_verify", "on_verify_leniently", "select_alpn"]

ALPN = b"sunrpc"

# SSL_state_string_long(3): a client reads CertificateRequest; and proves that the certificate that
# it has sent is its own, which it does not where it has sent an empty one.
_ASKED_STATE = b"SSLv3/TLS read server certificate request"
_SHOWN_STATE = b"SSLv3/TLS write certificate verify"


READ_ALERT, WRITE_ALERT = SSL.SSL_CB_READ_ALERT, SSL.SSL_CB_WRITE_ALERT
CONNECT_LOOP = SSL.SSL_CB_CONNECT_LOOP


# pyOpenSSL's own looks the connection up each time, thirty times in a handshake.
@ffi.callback("void (*)(const SSL *, int, int)")  # type: ignore[untyped-decorator]
def on_info(ssl: Any, where: int, value: int) -> None:
    if where == READ_ALERT:
        _findings(ssl).alert_received = value & 0xFF
    elif where == WRITE_ALERT:
        # The refusal of a renegotiation is a warning, and ends nothing.
        if value >> 8 == AlertLevel.FATAL or value & 0xFF == TlsAlert.CLOSE_NOTIFY:
            _findings(ssl).alert_sent = value & 0xFF
    elif where == CONNECT_LOOP:
        state = ffi.string(lib.SSL_state_string_long(ssl))
        if state == _ASKED_STATE:
            _findings(ssl).certificate_asked = True
        elif state == _SHOWN_STATE:
            _findings(ssl).certificate_shown = True


def _findings(ssl: Any) -> Findings:
    """Those of the connection with this `SSL *`."""
    found: Findings = SSL.Connection._reverse_mapping[ssl].get_app_data()
    return found


_VERIFY_CALLBACK = "int (*)(int, X509_STORE_CTX *)"


def _note_problem(store: Any) -> int:
    """Put what verification has found into the connection's findings; its code."""
    ssl = lib.X509_STORE_CTX_get_ex_data(store, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
    findings = _findings(ssl)
    shown = lib.X509_STORE_CTX_get_current_cert(store)
    lib.X509_up_ref(shown)
    try:
        certificate = crypto.X509._from_raw_x509_ptr(shown).to_cryptography()
    except UNREADABLE:
        certificate = None
    code: int = lib.X509_STORE_CTX_get_error(store)
    text = ffi.string(lib.X509_verify_cert_error_string(code)).decode()
    depth = lib.X509_STORE_CTX_get_error_depth(store)
    findings.problems.append(VerifyProblem(code, text, depth, certificate))
    findings.problem = findings.problem or findings.problems[0]
    return code


# pyOpenSSL's own callback cannot say which alert is sent. What goes wrong in here is a refusal.
@ffi.callback(_VERIFY_CALLBACK, error=0)  # type: ignore[untyped-decorator]
def on_verify(good: int, store: Any) -> int:
    if not good:
        alert = VERIFY_ALERTS.get(_note_problem(store))
        if alert is not None:
            lib.X509_STORE_CTX_set_error(store, CODE_FOR_ALERT[alert])
    return good


@ffi.callback(_VERIFY_CALLBACK, error=0)  # type: ignore[untyped-decorator]
def on_verify_leniently(good: int, store: Any) -> int:
    if not good:
        _note_problem(store)
        lib.X509_STORE_CTX_set_error(store, 0)
    return 1


def select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    connection.get_app_data().offered = offered
    if ALPN in offered:
        return ALPN
    # An exception is how pyOpenSSL can be told to send the alert no_application_protocol.
    names = ", ".join(name.decode("ascii", "backslashreplace") for name in offered)
    raise NoCommonProtocol(f"the client offers the ALPN protocols {names}")
