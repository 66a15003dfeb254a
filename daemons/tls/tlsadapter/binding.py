"""What pyOpenSSL does not wrap, reached through its cffi binding, which is private."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

__all__ = ["ffi", "lib", "missing_features", "pointer", "reasons"]

_NEEDED = (
    "BIO_get_mem_data",
    "SSL_CTX_set_info_callback",
    "SSL_get0_param",
    "SSL_session_reused",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "X509_verify_cert_error_string",
)


def missing_features() -> list[str]:
    """The functions that the installed OpenSSL binding lacks; empty when all is well."""
    return [name for name in _NEEDED if not hasattr(lib, name)]


def pointer(connection: SSL.Connection) -> Any:
    """The connection's `SSL *`."""
    return connection._ssl


def reasons(error: SSL.Error) -> str:
    """The texts of OpenSSL's error queue."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    texts = [reason for _, _, reason in queue if reason]
    return ", ".join(texts) or type(error).__name__
