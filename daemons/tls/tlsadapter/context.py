"""What the connections of one side share; a connection is made from it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from OpenSSL import SSL, crypto

from umktls.errors import UnsupportedError
from umktls.ktls.session.suites import SUITES
from umktls.private import exposure

from .. import tls12
from ..identity import (
    ConfigurationError,
    Identity,
    Trust,
    check_readable,
    load_crls,
    load_private_key,
)
from ..tlsfindings import ClientCertificates
from .binding import lib, missing_features, reasons
from .callbacks import ALPN, on_info, on_verify, select_alpn
from .chains import Chains
from .endpoint import Endpoint, TlsSession, Versions

__all__ = ["TlsContext"]

logger = logging.getLogger(__name__)

KeyLog: TypeAlias = Callable[[bytes], None]

# What the names of CAs may come to in a request for a certificate, each with two bytes of length.
# In TLS 1.3 they are an extension (RFC 8446 section 4.2.4) and share 65535 bytes with all others of
# the message, so OpenSSL 4.0 fails at 65482; in TLS 1.2 they are a field, and it fails at 65536.
AUTHORITIES_LIMIT = 0xFFFF - 1024


class TlsContext:
    """What connections share: trust, identity, versions, suites.

    `passphrase` is asked when the key is encrypted. `remarks` is what whoever looks after this side
    should know of it, each a line. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        *,
        server: bool,
        trust: Trust,
        identity: Identity | None,
        passphrase: Callable[[], bytes],
        keylog: KeyLog | None = None,
        ciphersuites: str | None = None,
        versions: Versions = Versions.TLS13,
    ) -> None:
        lacking = missing_features()
        if lacking:
            raise UnsupportedError(
                f"this pyOpenSSL lacks {', '.join(lacking)}; install 26.3 or later"
            )
        self._is_server = server
        self._keylog = keylog
        self.trust = str(trust)
        # What is in a file is read once; in a directory, OpenSSL looks for what it lacks.
        self._trust_is_fixed = trust.directory is None and not trust.is_system
        self.remarks: list[str] = []
        self._context = SSL.Context(SSL.TLS_METHOD)
        store = self._context.get_cert_store()
        assert store is not None
        self._store = store
        self.chains = Chains(store)
        self.versions = versions
        self._set_protocol()
        self._set_ciphers(ciphersuites)
        self._load_trust(trust)
        if identity is not None:
            self._load_identity(identity, passphrase)

    def _set_ciphers(self, ciphersuites: str | None) -> None:
        of_tls13, of_tls12 = tls12.split_ciphers(ciphersuites or "")
        known = ":".join(SUITES)
        if self.versions is not Versions.TLS13:
            known = f"{known}; with TLS 1.2 also {':'.join(tls12.IANA_NAMES)}, or OpenSSL's names"
        for name in of_tls13.split(":"):
            # OpenSSL knows others, some of which do not encrypt (RFC 9150).
            if name and name not in SUITES:
                raise ConfigurationError(
                    f"cipher suites {name}: not known to kernel TLS; known are {known}"
                )
        if of_tls12 and self.versions is Versions.TLS13:
            raise ConfigurationError(
                f"cipher suites {of_tls12}: not of TLS 1.3 (see -2); known are {known}"
            )
        try:
            self._context.set_tls13_ciphersuites((of_tls13 or ":".join(SUITES)).encode())
            self._context.set_cipher_list((of_tls12 or tls12.CIPHERS).encode())
        except SSL.Error as error:
            raise ConfigurationError(
                f"cipher suites {ciphersuites}: {reasons(error)}; known are {known}"
            ) from error

    def _set_protocol(self) -> None:
        context = self._context
        oldest, newest = self.versions.value
        context.set_min_proto_version(oldest)
        context.set_max_proto_version(newest)
        # Kernel TLS cannot follow a renegotiation (of TLS 1.2).
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        context.set_keylog_callback(self._on_keylog)
        lib.SSL_CTX_set_info_callback(context._context, on_info)
        lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, on_verify)
        # Session tickets are stateless; a cache of sessions would only fill memory.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if self._is_server:
            context.set_session_id(b"umktls")
            context.set_alpn_select_callback(select_alpn)
        else:
            context.set_alpn_protos([ALPN])

    def _load_trust(self, trust: Trust) -> None:
        trust.check()
        if trust.crl is not None:
            for crl in load_crls(trust.crl):
                self._store.add_crl(crl)
            flags = crypto.X509StoreFlags
            self._store.set_flags(flags.CRL_CHECK | flags.CRL_CHECK_ALL)
        if trust.is_system:
            self._context.set_default_verify_paths()
            return
        try:
            self._context.load_verify_locations(
                trust.file and os.fsencode(trust.file),
                trust.directory and os.fsencode(trust.directory),
            )
            if self._is_server and trust.file is not None:
                self._name_authorities(trust.file)
        except SSL.Error as error:
            raise ConfigurationError(
                f"CA file {trust.file}: no PEM certificate can be read from it ({reasons(error)})"
            ) from error

    def _name_authorities(self, path: Path) -> None:
        """Have clients told which CAs are trusted, so that they can choose a certificate; they can
        do without (RFC 8446 section 4.2.4, RFC 5246 section 7.4.4). May raise SSL.Error."""
        # A context must not be changed once it has a connection, which alone gives them back.
        reading = SSL.Context(SSL.TLS_METHOD)
        reading.load_client_ca(os.fsencode(path))
        names = SSL.Connection(reading, None).get_client_ca_list()
        size = sum(2 + len(name.der()) for name in names)
        if size <= AUTHORITIES_LIMIT:
            self._context.load_client_ca(os.fsencode(path))
            return
        self.remarks.append(
            f"clients are not told which CAs are trusted: the {len(names)} names in {path} come to "
            f"{size} bytes, and {AUTHORITIES_LIMIT} fit into a handshake; a client with several "
            "certificates may choose the wrong one"
        )

    def log_remarks(self) -> None:
        """Into the log, for whoever looks after this side."""
        for remark in self.remarks:
            logger.warning("%s", remark)

    def _load_identity(self, identity: Identity, passphrase: Callable[[], bytes]) -> None:
        pem = check_readable(identity.certificate, "certificate")
        try:
            self._context.use_certificate_chain_file(os.fsencode(identity.certificate))
        except SSL.Error as error:
            raise ConfigurationError(
                f"certificate {identity.certificate}: not a PEM certificate ({reasons(error)})"
            ) from error
        warning = exposure(identity.key)
        if warning is not None:
            self.remarks.append(f"key {warning}")
        try:
            self._context.use_privatekey(load_private_key(identity.key, passphrase))
        except SSL.Error as error:
            raise ConfigurationError(
                f"key {identity.key}: it does not belong to the certificate "
                f"{identity.certificate} ({reasons(error)})"
            ) from error
        if self._trust_is_fixed:
            self._find_chain(crypto.load_certificate(crypto.FILETYPE_PEM, pem))

    def _find_chain(self, certificate: crypto.X509) -> None:
        """Find now which CAs go along with our certificate. OpenSSL would for each handshake, and
        verify them, which is a tenth of one. What does not verify, or has its chain in its file, is
        left to it."""
        found = crypto.X509StoreContext(self._store, certificate)
        try:
            chain = [each.to_cryptography() for each in found.get_verified_chain()]
        except (crypto.X509StoreContextError, ValueError):
            return
        for above in chain[1:]:
            self._context.add_extra_chain_cert(above)

    def _on_keylog(self, connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.split(b" ")
        findings = connection.get_app_data()
        findings.secrets[label.decode()] = bytes.fromhex(secret.decode())
        if self._keylog is not None:
            self._keylog(line)
        if findings.on_secret is not None:
            findings.on_secret(line)

    def client(self, name: str, session: TlsSession | None = None) -> Endpoint:
        """A connection to the server `name`, a DNS name or an address; resumes `session`."""
        endpoint = self._endpoint()
        endpoint.expect(name)
        if session is not None:
            endpoint.resume(session)
        endpoint.connection.set_connect_state()
        return endpoint

    def server(self, certificates: ClientCertificates) -> Endpoint:
        """A connection from a client."""
        endpoint = self._endpoint()
        endpoint.findings.certificate_asked = certificates is not ClientCertificates.IGNORE
        mode = {
            ClientCertificates.IGNORE: SSL.VERIFY_NONE,
            ClientCertificates.REQUEST: SSL.VERIFY_PEER,
            ClientCertificates.DEMAND: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
        }[certificates]
        # Without a callback, it keeps the context's: SSL_set_verify(3).
        endpoint.connection.set_verify(mode)
        endpoint.connection.set_accept_state()
        return endpoint

    def _endpoint(self) -> Endpoint:
        return Endpoint(self._context, self.chains, self.versions, is_server=self._is_server)
