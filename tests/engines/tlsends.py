"""TLS peers in memory, by pyOpenSSL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from OpenSSL import SSL

from umktls.ktls.engines.toe import record_size

__all__ = ["MemoryEnd", "context", "records"]


def context(certs: Path, role: str, suite: str = "") -> SSL.Context:
    """TLS 1.3 with the certificate of a role; both sides verify each other if both have one."""
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_min_proto_version(SSL.TLS1_3_VERSION)
    made.load_verify_locations(str(certs / "ca.pem"))
    if suite:
        made.set_tls13_ciphersuites(suite.encode())
    if role:
        made.use_certificate_chain_file(str(certs / role / "cert.pem"))
        made.use_privatekey_file(str(certs / role / "certkey.pem"))
    return made


class MemoryEnd:
    """One end of a connection: bytes in by `feed`, bytes out by `output`."""

    def __init__(self, made: SSL.Context, *, server: bool) -> None:
        self.tls = SSL.Connection(made, None)
        if server:
            self.tls.set_accept_state()
        else:
            self.tls.set_connect_state()
        self.done = False

    def feed(self, data: bytes = b"") -> None:
        """Go on with the handshake, or behind it with what comes then."""
        if data:
            self.tls.bio_write(data)
        try:
            self.tls.do_handshake()
            self.done = True
        except SSL.WantReadError:
            return

    def output(self) -> bytes:
        data = b""
        while True:
            try:
                data += self.tls.bio_read(65536)
            except SSL.WantReadError:
                return data


def records(data: bytes) -> Iterator[bytes]:
    """The records that `data` is a row of."""
    while data:
        size = record_size(data[:5])
        assert size is not None
        yield data[:size]
        data = data[size:]
