"""OpenSSL behind a small door: the only file that imports it.

An `Endpoint` is one TLS 1.3 connection over memory BIOs: bytes are fed, bytes are taken out, and no
socket is ever touched. What the callbacks of OpenSSL find out on the way (traffic secrets from the
key log, the verification problem, alerts) is collected in `Findings`.

pyOpenSSL does not wrap all that is needed; the rest is reached through its cffi binding, which is
private. `missing_features` says what an installed version lacks, before anything is tried.

A context is never changed after its first connection (pyOpenSSL 26.2 refuses that), and a session
can be resumed only under the context that made it (26.3): a reload makes a new `TlsContext`, and
nobody gets past a new revocation list by an old ticket.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

from umktls.errors import CallerError, UnsupportedError
from umktls.ktls.engines import MAX_PLAINTEXT, Buffer
from umktls.ktls.session.suites import SUITES
from umktls.private import exposure

from . import tls12
from .failure import CODE_FOR_ALERT, VERIFY_ALERTS, VerifyProblem
from .hostnames import dns_name
from .identity import (
    ConfigurationError,
    Identity,
    Trust,
    check_readable,
    load_crls,
    load_private_key,
)
from .tlsfindings import ClientCertificates, Findings, NoCommonProtocol, Progress, TlsError

__all__ = [
    "ALPN",
    "Chain",
    "ClientCertificates",
    "Endpoint",
    "Findings",
    "NoCommonProtocol",
    "Progress",
    "TlsContext",
    "TlsError",
    "TlsSession",
    "Versions",
    "missing_features",
]

logger = logging.getLogger(__name__)

ALPN = b"sunrpc"

# What became of the client's certificate, as trace and `umktls stat` say it.
CERTIFICATE_SHOWN = "shown"
CERTIFICATE_ASKED = "asked for, none shown"
CERTIFICATE_NOT_ASKED = "not asked for"

_NEEDED = (
    "SSL_get0_param",
    "SSL_session_reused",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "X509_verify_cert_error_string",
)
# x509v3.h. RFC 9289 section 5.2.1 wants the subjectAltName and no wildcards.
_X509_CHECK_FLAG_NO_WILDCARDS = 0x2
_X509_CHECK_FLAG_NEVER_CHECK_SUBJECT = 0x20

KeyLog: TypeAlias = Callable[[bytes], None]
# A verified peer: its certificate first, the trusted CA last. Empty where it showed none.
Chain: TypeAlias = tuple[x509.Certificate, ...]

# Peers whose chains are remembered for when they resume.
CHAINS_LIMIT = 16384
# What the names of CAs may come to in a request for a certificate, each with two bytes of length.
# In TLS 1.3 they are an extension (RFC 8446 section 4.2.4) and share 65535 bytes with all others of
# the message, so OpenSSL 4.0 fails at 65482; in TLS 1.2 they are a field, and it fails at 65536.
AUTHORITIES_LIMIT = 0xFFFF - 1024
# A ticket has the client's certificate in it. OpenSSL (tls_construct_new_session_ticket) ends the
# handshake with internal_error where that, with the rest of the session, is more than 0xff00 bytes.
TICKET_LIMIT = 0xFF00 - 1024
# What is read from a memory BIO at once: a flight of messages, as a rule.
OUTPUT_SIZE = 16384


class Versions(Enum):
    """What may be spoken: the oldest and the newest."""

    TLS13 = (SSL.TLS1_3_VERSION, SSL.TLS1_3_VERSION)
    TLS12 = (SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION)
    TLS12_OR_13 = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


@dataclass(frozen=True, slots=True)
class TlsSession:
    """A client's session with its ticket, to be used with the context that made it; and what became
    of the client's certificate when it began, which a resumed handshake does not ask for again."""

    made: SSL.Session = field(repr=False)
    client_certificate: str


def missing_features() -> list[str]:
    """The functions that the installed OpenSSL binding lacks; empty when all is well."""
    return [name for name in _NEEDED if not hasattr(_lib, name)]


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
        self._server = self.is_server = server
        self._keylog = keylog
        self.trust = str(trust)
        self.remarks: list[str] = []
        self._chains: OrderedDict[bytes, Chain] = OrderedDict()
        self._context = SSL.Context(SSL.TLS_METHOD)
        store = self._context.get_cert_store()
        assert store is not None
        self._store = store
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
                f"cipher suites {ciphersuites}: {_reasons(error)}; known are {known}"
            ) from error

    def _set_protocol(self) -> None:
        context = self._context
        oldest, newest = self.versions.value
        context.set_min_proto_version(oldest)
        context.set_max_proto_version(newest)
        # Kernel TLS cannot follow a renegotiation (of TLS 1.2).
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        context.set_keylog_callback(self._on_keylog)
        context.set_info_callback(_on_info)
        _lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, _on_verify)
        # Session tickets are stateless; a cache of sessions would only fill memory.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if self._server:
            context.set_session_id(b"umktls")
            context.set_alpn_select_callback(_select_alpn)
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
            if self._server and trust.file is not None:
                self._name_authorities(trust.file)
        except SSL.Error as error:
            raise ConfigurationError(
                f"CA file {trust.file}: no PEM certificate can be read from it ({_reasons(error)})"
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
        check_readable(identity.certificate, "certificate")
        try:
            self._context.use_certificate_chain_file(os.fsencode(identity.certificate))
        except SSL.Error as error:
            raise ConfigurationError(
                f"certificate {identity.certificate}: not a PEM certificate ({_reasons(error)})"
            ) from error
        warning = exposure(identity.key)
        if warning is not None:
            self.remarks.append(f"key {warning}")
        try:
            self._context.use_privatekey(load_private_key(identity.key, passphrase))
        except SSL.Error as error:
            raise ConfigurationError(
                f"key {identity.key}: it does not belong to the certificate "
                f"{identity.certificate} ({_reasons(error)})"
            ) from error

    def _on_keylog(self, connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.split(b" ")
        connection.get_app_data().secrets[label.decode()] = bytes.fromhex(secret.decode())
        if self._keylog is not None:
            self._keylog(line)

    def client(self, name: str, session: TlsSession | None = None) -> Endpoint:
        """A connection to the server `name`, a DNS name or an address; resumes `session`."""
        endpoint = Endpoint(self, self._context)
        connection = endpoint.connection
        _expect_name(connection, name)
        if session is not None:
            connection.set_session(session.made)
            endpoint.begun = session.client_certificate
        connection.set_connect_state()
        return endpoint

    def server(self, certificates: ClientCertificates) -> Endpoint:
        """A connection from a client."""
        endpoint = Endpoint(self, self._context)
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

    def chain_of(self, endpoint: Endpoint) -> Chain:
        """The verified chain of the peer of a finished handshake.

        A resumed session has only the certificate itself; the rest is remembered from the
        handshake that it goes back to, which was made under this context too.
        """
        certificate = endpoint.peer_certificate
        if certificate is None:
            return ()
        key = certificate.fingerprint(hashes.SHA256())
        chain = endpoint.verified or self._chains.get(key, (certificate,))
        self._chains[key] = chain
        self._chains.move_to_end(key)
        if len(self._chains) > CHAINS_LIMIT:
            self._chains.popitem(last=False)
        return chain

    def problem_with(self, chain: Chain) -> VerifyProblem | None:
        """Why a chain that verified once does not verify now; None if it does, or is empty."""
        if not chain:
            return None
        certificate, *above = map(crypto.X509.from_cryptography, chain)
        try:
            crypto.X509StoreContext(self._store, certificate, above).verify_certificate()
        except crypto.X509StoreContextError as error:
            code, depth, text = error.errors
            return VerifyProblem(code, text, depth, error.certificate.to_cryptography())
        return None


class Endpoint:
    """One TLS connection in memory."""

    def __init__(self, owner: TlsContext, context: SSL.Context) -> None:
        self._owner = owner
        self.findings = Findings()
        self._verified: Chain = ()
        self._chain: Chain | None = None
        self._fed = 0
        self.begun: str | None = None  # what the session to resume says of our certificate
        self.connection = SSL.Connection(context, None)
        self.connection.set_app_data(self.findings)

    def accept_any_certificate(self) -> None:
        """For looking at a server, and nothing else: what is wrong is in `findings.problems`."""
        _lib.SSL_set_verify(_ssl(self.connection), SSL.VERIFY_PEER, _on_verify_leniently)

    def handshake(self) -> bool:
        """Go on as far as the bytes allow; True when finished. Raises `TlsError`."""
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TlsError(_reasons(error)) from error
        return True

    def feed(self, data: bytes) -> None:
        """Bytes from the peer."""
        self.connection.bio_write(data)
        self._fed += len(data)
        if self.certificate_too_long_for_ticket:
            # In TLS 1.3 OpenSSL sends tickets without anything in them then, which resume nothing.
            _lib.SSL_set_options(_ssl(self.connection), SSL.OP_NO_TICKET)

    def output(self) -> bytes:
        """The bytes for the peer that have come together; empties the BIO."""
        output = b""
        while len(output) % OUTPUT_SIZE == 0:
            try:
                output += self.connection.bio_read(OUTPUT_SIZE)
            except SSL.WantReadError:
                break
        return output

    def process(self) -> Progress:
        """Process what was fed after the handshake: tickets, key updates, alerts.

        Raises `TlsError` for a fatal alert, received or sent, and for application data, which must
        never get here.
        """
        outcome = self.read()
        if isinstance(outcome, bytes):
            raise TlsError("application data was fed to the handshake's object")
        return outcome

    def read(self) -> bytes | Progress:
        """SSL_read: a record's application data, or what happened without any.

        Raises `TlsError` for a fatal alert, received or sent.
        """
        try:
            return self.connection.recv(MAX_PLAINTEXT)
        except SSL.WantReadError:
            return Progress.NOTHING
        except SSL.ZeroReturnError:
            return Progress.CLOSED
        except SSL.Error as error:
            raise TlsError(_reasons(error)) from error

    def write(self, data: Buffer) -> None:
        """SSL_write: application data, whose records are then in the output. Raises `TlsError`."""
        try:
            self.connection.sendall(data)
        except SSL.Error as error:
            raise TlsError(_reasons(error)) from error

    def close_notify(self) -> None:
        """Put a close_notify into the output, unless one was sent. Never fails."""
        try:
            self.connection.shutdown()
        except SSL.Error:
            # After a fatal alert there is nothing to shut down.
            return

    def release(self) -> None:
        """Free the object without spoiling its session.

        OpenSSL takes a connection that was freed without a shutdown for broken, and makes its
        session not resumable (ssl_clear_bad_session).
        """
        self.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def session(self) -> TlsSession | None:
        """The session with the newest ticket."""
        made = self.connection.get_session()
        return None if made is None else TlsSession(made, self.client_certificate)

    @property
    def client_certificate(self) -> str:
        """What became of the client's certificate, on whichever side: "shown", "asked for, none
        shown" or "not asked for". A resumed session says what its first handshake has said."""
        found = self.findings
        if self.resumed and self.begun is not None:
            return self.begun
        if found.certificate_shown or (self._owner.is_server and self.peer_certificate is not None):
            return CERTIFICATE_SHOWN
        return CERTIFICATE_ASKED if found.certificate_asked else CERTIFICATE_NOT_ASKED

    @property
    def certificate_too_long_for_ticket(self) -> bool:
        """Whether a client's certificate may be; it has sent enough for that."""
        return self._owner.is_server and self._fed > TICKET_LIMIT

    @property
    def version(self) -> str:
        return self.connection.get_protocol_version_name()

    @property
    def suite(self) -> str:
        """The suite's IANA name."""
        return self.connection.get_cipher_name() or ""

    @property
    def oldest(self) -> str:
        """The oldest version that may be spoken."""
        return "TLS 1.3" if self._owner.versions is Versions.TLS13 else "TLS 1.2"

    @property
    def randoms(self) -> tuple[bytes, bytes]:
        """The client's and the server's."""
        randoms = self.connection.client_random(), self.connection.server_random()
        return randoms[0] or b"", randoms[1] or b""

    @property
    def alpn(self) -> bytes:
        return self.connection.get_alpn_proto_negotiated()

    @property
    def resumed(self) -> bool:
        return bool(_lib.SSL_session_reused(_ssl(self.connection)))

    @property
    def chain(self) -> Chain:
        """The verified chain of the peer, also where the session was resumed."""
        if self._chain is None:
            self._chain = self._owner.chain_of(self)
        return self._chain

    def problem(self) -> VerifyProblem | None:
        """What is wrong with the peer's certificate by now; None if nothing is."""
        return self._owner.problem_with(self.chain)

    @property
    def shown(self) -> Chain:
        """The certificates that the server has sent, verified or not, its own first."""
        return tuple(self.connection.get_peer_cert_chain(as_cryptography=True) or ())

    @property
    def verified(self) -> Chain:
        """The chain as it was verified in this handshake; empty where none was, or none yet."""
        if not self._verified:
            found = self.connection.get_verified_chain(as_cryptography=True)
            self._verified = tuple(found or ())
        return self._verified

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        if self.verified:
            return self.verified[0]
        return self.connection.get_peer_certificate(as_cryptography=True)


def _ssl(connection: SSL.Connection) -> Any:
    return connection._ssl


def _expect_name(connection: SSL.Connection, name: str) -> None:
    """Have the server's certificate checked for `name`, and ask for it by SNI if it is DNS."""
    parameters = _lib.SSL_get0_param(_ssl(connection))
    _lib.X509_VERIFY_PARAM_set_hostflags(
        parameters, _X509_CHECK_FLAG_NO_WILDCARDS | _X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    )
    try:
        # An address of the link carries its interface behind a percent sign; certificates do not.
        packed = ipaddress.ip_address(name.partition("%")[0]).packed
    except ValueError:
        encoded = dns_name(name)
        connection.set_tlsext_host_name(encoded)
        done = _lib.X509_VERIFY_PARAM_set1_host(parameters, encoded, len(encoded))
    else:
        done = _lib.X509_VERIFY_PARAM_set1_ip(parameters, packed, len(packed))
    if done != 1:
        raise CallerError(f"{name!r} is neither a DNS name nor an address")


# SSL_state_string_long(3): a client reads CertificateRequest; and proves that the certificate that
# it has sent is its own, which it does not where it has sent an empty one.
_ASKED_STATE = b"SSLv3/TLS read server certificate request"
_SHOWN_STATE = b"SSLv3/TLS write certificate verify"


def _on_info(connection: SSL.Connection, where: int, value: int) -> None:
    if where == SSL.SSL_CB_READ_ALERT:
        connection.get_app_data().alert_received = value & 0xFF
    elif where == SSL.SSL_CB_WRITE_ALERT:
        connection.get_app_data().alert_sent = value & 0xFF
    elif where == SSL.SSL_CB_CONNECT_LOOP:
        state = connection.get_state_string()
        if state == _ASKED_STATE:
            connection.get_app_data().certificate_asked = True
        elif state == _SHOWN_STATE:
            connection.get_app_data().certificate_shown = True


_VERIFY_CALLBACK = "int (*)(int, X509_STORE_CTX *)"


def _note_problem(store: Any) -> int:
    """Put what verification has found into the connection's findings; its code."""
    ssl = _lib.X509_STORE_CTX_get_ex_data(store, _lib.SSL_get_ex_data_X509_STORE_CTX_idx())
    findings: Findings = SSL.Connection._reverse_mapping[ssl].get_app_data()
    shown = _lib.X509_STORE_CTX_get_current_cert(store)
    _lib.X509_up_ref(shown)
    certificate = crypto.X509._from_raw_x509_ptr(shown).to_cryptography()
    code: int = _lib.X509_STORE_CTX_get_error(store)
    text = _ffi.string(_lib.X509_verify_cert_error_string(code)).decode()
    depth = _lib.X509_STORE_CTX_get_error_depth(store)
    findings.problems.append(VerifyProblem(code, text, depth, certificate))
    findings.problem = findings.problem or findings.problems[0]
    return code


# pyOpenSSL's own callback cannot say which alert is sent. What goes wrong in here is a refusal.
@_ffi.callback(_VERIFY_CALLBACK, error=0)  # type: ignore[untyped-decorator]
def _on_verify(good: int, store: Any) -> int:
    if not good:
        alert = VERIFY_ALERTS.get(_note_problem(store))
        if alert is not None:
            _lib.X509_STORE_CTX_set_error(store, CODE_FOR_ALERT[alert])
    return good


@_ffi.callback(_VERIFY_CALLBACK, error=0)  # type: ignore[untyped-decorator]
def _on_verify_leniently(good: int, store: Any) -> int:
    if not good:
        _note_problem(store)
        _lib.X509_STORE_CTX_set_error(store, 0)
    return 1


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    connection.get_app_data().offered = offered
    if ALPN in offered:
        return ALPN
    # An exception is how pyOpenSSL can be told to send the alert no_application_protocol.
    names = ", ".join(name.decode("ascii", "backslashreplace") for name in offered)
    raise NoCommonProtocol(f"the client offers the ALPN protocols {names}")


def _reasons(error: SSL.Error) -> str:
    """The texts of OpenSSL's error queue."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    texts = [reason for _, _, reason in queue if reason]
    return ", ".join(texts) or type(error).__name__
