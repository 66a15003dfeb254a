"""One TLS connection over memory BIOs: bytes are fed, bytes are taken out."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from enum import Enum
from functools import lru_cache

from cryptography import x509
from OpenSSL import SSL, crypto

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines import MAX_PLAINTEXT, Buffer

from ..failure import VerifyProblem
from ..hostnames import dns_name
from ..tlsfindings import Findings, Progress, TlsError
from .binding import certificates_in, ffi, lib, pointer, reasons
from .callbacks import on_verify_leniently
from .chains import NOBODY, Chain, Chains, chain_of

__all__ = ["Endpoint", "TlsSession", "Versions"]

# Servers that come back.
REMEMBERED = 64

# What became of the client's certificate, as trace and `umktls stat` say it.
CERTIFICATE_SHOWN = "shown"
CERTIFICATE_ASKED = "asked for, none shown"
CERTIFICATE_NOT_ASKED = "not asked for"

# A ticket has the client's certificate in it. OpenSSL (tls_construct_new_session_ticket) ends the
# handshake with internal_error where that, with the rest of the session, is more than 0xff00 bytes.
TICKET_LIMIT = 0xFF00 - 1024

# x509v3.h. RFC 9289 section 5.2.1 wants the subjectAltName and no wildcards.
_X509_CHECK_FLAG_NO_WILDCARDS = 0x2
_X509_CHECK_FLAG_NEVER_CHECK_SUBJECT = 0x20


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


class Endpoint:
    """One TLS connection in memory, of one side; `chains` and `versions` are its context's."""

    def __init__(
        self, context: SSL.Context, chains: Chains, versions: Versions, *, is_server: bool
    ) -> None:
        self._chains = chains
        self._versions = versions
        self._is_server = is_server
        self.findings = Findings()
        self._verified = NOBODY
        self._chain: Chain | None = None
        self._fed = 0
        self._begun: str | None = None  # what the session to resume says of our certificate
        self.connection = SSL.Connection(context, None)
        self.connection.set_app_data(self.findings)

    def expect(self, name: str) -> None:
        """Have the server's certificate checked for `name`, and ask for it by SNI if it is DNS."""
        parameters = lib.SSL_get0_param(pointer(self.connection))
        lib.X509_VERIFY_PARAM_set_hostflags(
            parameters, _X509_CHECK_FLAG_NO_WILDCARDS | _X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
        )
        if packed := packed_address(name):
            done = lib.X509_VERIFY_PARAM_set1_ip(parameters, packed, len(packed))
        else:
            encoded = dns_name(name)
            self.connection.set_tlsext_host_name(encoded)
            done = lib.X509_VERIFY_PARAM_set1_host(parameters, encoded, len(encoded))
        if done != 1:
            raise CallerError(f"{name!r} is neither a DNS name nor an address")

    def resume(self, session: TlsSession) -> None:
        """Try to go on with that session instead of a handshake in full."""
        self.connection.set_session(session.made)
        self._begun = session.client_certificate

    def accept_any_certificate(self) -> None:
        """For looking at a server, and nothing else: what is wrong is in `findings.problems`."""
        lib.SSL_set_verify(pointer(self.connection), SSL.VERIFY_PEER, on_verify_leniently)

    def handshake(self) -> bool:
        """Go on as far as the bytes allow; True when finished. Raises `TlsError`."""
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TlsError(reasons(error)) from error
        return True

    def feed(self, data: bytes) -> None:
        """Bytes from the peer."""
        self.connection.bio_write(data)
        self._fed += len(data)
        if self.certificate_too_long_for_ticket:
            # In TLS 1.3 OpenSSL sends tickets without anything in them then, which resume nothing.
            lib.SSL_set_options(pointer(self.connection), SSL.OP_NO_TICKET)

    def take_back(self) -> int:
        """Take what was fed and not used out again; how many bytes that is."""
        fed = self.connection._into_ssl
        unused: int = lib.BIO_get_mem_data(fed, ffi.NULL)
        if unused:
            lib.BIO_read(fed, ffi.new("char[]", unused), unused)
            self._fed -= unused
        return unused

    def output(self) -> bytes:
        """The bytes for the peer that have come together; empties the BIO."""
        length = lib.BIO_get_mem_data(self.connection._from_ssl, ffi.NULL)
        return self.connection.bio_read(length) if length else b""

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
            raise TlsError(reasons(error)) from error

    def write(self, data: Buffer) -> None:
        """SSL_write: application data, whose records are then in the output. Raises `TlsError`."""
        try:
            self.connection.sendall(data)
        except SSL.Error as error:
            raise TlsError(reasons(error)) from error

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
        if self.resumed and self._begun is not None:
            return self._begun
        if found.certificate_shown or (self._is_server and self.peer_certificate is not None):
            return CERTIFICATE_SHOWN
        return CERTIFICATE_ASKED if found.certificate_asked else CERTIFICATE_NOT_ASKED

    @property
    def certificate_too_long_for_ticket(self) -> bool:
        """Whether a client's certificate may be; it has sent enough for that."""
        return self._is_server and self._fed > TICKET_LIMIT

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
        return "TLS 1.3" if self._versions is Versions.TLS13 else "TLS 1.2"

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
        return bool(lib.SSL_session_reused(pointer(self.connection)))

    @property
    def chain(self) -> Chain:
        """The verified chain of the peer, also where the session was resumed."""
        if self._chain is None:
            self._chain = self._chains.of(self._certificate_in_der(), self.verified)
        return self._chain

    def _certificate_in_der(self) -> bytes:
        """The peer's, b"" for none."""
        if self.verified:
            return self.verified.der[0]
        shown = self.connection.get_peer_certificate()
        return b"" if shown is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)

    def problem(self) -> VerifyProblem | None:
        """What is wrong with the peer's certificate by now; None if nothing is."""
        return self._chains.problem_with(self.chain)

    @property
    def shown(self) -> tuple[x509.Certificate, ...]:
        """The certificates that the server has sent, verified or not, its own first."""
        return tuple(self.connection.get_peer_cert_chain(as_cryptography=True) or ())

    @property
    def verified(self) -> Chain:
        """The chain as it was verified in this handshake; empty where none was, or none yet."""
        if not self._verified:
            found = lib.SSL_get0_verified_chain(pointer(self.connection))
            self._verified = chain_of(certificates_in(found))
        return self._verified

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        if self.verified:
            return self.verified[0]
        return self.connection.get_peer_certificate(as_cryptography=True)


@lru_cache(REMEMBERED)
def packed_address(name: str) -> bytes:
    """An IP address as it stands in certificates; b"" for any other name."""
    try:
        # A link-local address has its interface behind a percent sign; certificates do not.
        return ipaddress.ip_address(name.partition("%")[0]).packed
    except ValueError:
        return b""
