"""What pyOpenSSL does not wrap, reached through its cffi binding, which is private."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

__all__ = ["certificates_in", "ffi", "lib", "missing_features", "pointer", "reasons"]

_NEEDED = (
    "BIO_get_mem_data",
    "SSL_CTX_set_info_callback",
    "SSL_get0_param",
    "SSL_get0_verified_chain",
    "SSL_session_reused",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "X509_verify_cert_error_string",
    "i2d_X509_bio",
    "sk_X509_num",
    "sk_X509_value",
)


def missing_features() -> list[str]:
    """The functions that the installed OpenSSL binding lacks; empty when all is well."""
    return [name for name in _NEEDED if not hasattr(lib, name)]


def pointer(connection: SSL.Connection) -> Any:
    """The connection's `SSL *`."""
    return connection._ssl


def certificates_in(stack: Any) -> tuple[bytes, ...]:
    """Those of a `STACK_OF(X509) *` in DER; none of NULL."""
    count = 0 if stack == ffi.NULL else lib.sk_X509_num(stack)
    bio = lib.BIO_new(lib.BIO_s_mem())
    try:
        ends, start = [0], ffi.new("char **")
        for place in range(count):
            lib.i2d_X509_bio(bio, lib.sk_X509_value(stack, place))
            ends.append(lib.BIO_get_mem_data(bio, start))
        data = ffi.buffer(start[0], ends[-1])[:] if count else b""
    finally:
        lib.BIO_free(bio)
    return tuple(data[begin:end] for begin, end in pairwise(ends))


def reasons(error: SSL.Error) -> str:
    """The texts of OpenSSL's error queue."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    texts = [reason for _, _, reason in queue if reason]
    return ", ".join(texts) or type(error).__name__
