"""rpctlssd: the handshake daemon of a server host, in the place of FreeBSD's rpc.tlsservd(8)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from umktls.abi.rpctls import RpctlsErr, RpctlsFlags
from umktls.errors import UmktlsError
from umktls.userland.libc import Kernel
from umktls.userland.upcalls import Connect, Connected

from ..sessions.established import EstablishedSession
from ..sessions.handshake import Expectations
from ..tls.facts import facts_in_bytes
from ..tls.failure import HandshakeFailure, VerifyProblem, certificate_names
from ..tls.hostnames import has_name, reverse_name
from ..tls.keylog import KeyLogFile
from ..tls.tlsadapter import Chain, ClientCertificates, TlsContext
from ..tls.users import CertificateUser, names_of, own_domain, user_of
from .background import Launch
from .options import ServerOptions, server_options
from .running import Start, begin, program, serve, start_options
from .service import HandshakeService
from .taken import Attempt, Taken
from .workers import run_workers

__all__ = ["ServerService", "main"]

logger = logging.getLogger(__name__)

# What CONNECT is answered for a client without a certificate, and for one with.
ANONYMOUS = int(RpctlsFlags.RPCTLS_FLAGS_HANDSHAKE)
VERIFIED = int(ANONYMOUS | RpctlsFlags.RPCTLS_FLAGS_GOTCERT | RpctlsFlags.RPCTLS_FLAGS_VERIFIED)


def domain_of(options: ServerOptions) -> str:
    """The domain of users in certificates, "" where they are not looked at.

    Raises `ConfigurationError` where there should be one and is not.
    """
    return (options.domain or own_domain()) if options.certuser else ""


def server_context(options: ServerOptions, keylog: KeyLogFile | None = None) -> TlsContext:
    """What handshakes are made with. Raises `ConfigurationError`."""
    options.check()
    domain_of(options)
    return options.context_factory(server=True, keylog=keylog)(options.identity())


class ServerService(HandshakeService):
    """CONNECT of RPCTLSSD: a TLS server.

    A client certificate that is shown must verify, even where none is demanded (RFC 9289 section
    5.2.2): so with GOTCERT there is always VERIFIED.
    """

    server = True

    def __init__(self, kernel: Kernel, options: ServerOptions) -> None:
        super().__init__(kernel, handover=options.handover)
        self._options = options
        self._keylog = options.open_keylog()
        self._domain = domain_of(options)
        self.load()

    def load(self) -> None:
        self._context = server_context(self._options, self._keylog)
        self._context.log_remarks()

    def problem_with(self, chain: Chain) -> VerifyProblem | None:
        return self._context.chains.problem_with(chain)

    def handlers(self) -> dict[str, Callable[[Any], Any]]:
        return {**super().handlers(), "CONNECT": self._connect}

    def _connect(self, upcall: Connect) -> Connected:
        session = self.connect(upcall, self._prepare)
        if isinstance(session, RpctlsErr):
            return Connected(reterr=session)
        flags = VERIFIED if session.peer_verified else ANONYMOUS
        if self._options.checkhost and not self._is_its_host(session):
            flags |= RpctlsFlags.RPCTLS_FLAGS_DISABLED
        user = self._user(session)
        if user is None:
            return Connected(flags=flags)
        flags |= RpctlsFlags.RPCTLS_FLAGS_CERTUSER
        return Connected(flags=flags, uid=user.uid, gids=tuple(user.gids))

    def answer_of(self, session: EstablishedSession) -> Connected | None:
        """Whose certificate it is takes looking, and may have to be complained of."""
        if self._options.checkhost or self._domain:
            return None
        return Connected(flags=VERIFIED if session.peer_verified else ANONYMOUS)

    def tell_more(self, taken: Taken, chain: Chain) -> None:
        """What the certificate says, for exports that are for some only."""

        def failed(error: UmktlsError) -> None:
            logger.info("%s: the certificate's facts are not wanted: %s", taken, error)

        if chain:
            taken.sock.tell_certificate_later(facts_in_bytes(chain), failed)

    def _user(self, session: EstablishedSession) -> CertificateUser | None:
        """-u: the user in the certificate, if one is wanted and there."""
        if not self._domain or not session.chain:
            return None
        user = user_of(session.chain[0], self._domain)
        if user is None and any(names_of(session.chain[0])):
            session.complain(
                f"the certificate names {', '.join(names_of(session.chain[0]))}, and nobody of "
                f"{self._domain} is known here by that name"
            )
        return user

    def _is_its_host(self, session: EstablishedSession) -> bool:
        """-h: whether the certificate is for the host that DNS says the client is.

        The man page has a client without a certificate rejected too; FreeBSD's daemon lets it pass.
        """
        if not session.chain:
            session.complain("the client showed no certificate, which -h demands")
            return False
        host = reverse_name(session.address, session.deadline()) if session.address else ""
        if host and has_name(session.chain[0], host, self._options.wildcards):
            return True
        session.complain(
            f"the client at {session.address or 'no address'} is {host or 'a host without a name'} "
            f"for DNS, and its certificate is for {certificate_names(session.chain[0])}"
        )
        return False

    def _prepare(self, taken: Taken) -> Attempt:
        certificates = self._wanted(taken.security)
        context = self._context
        return Attempt(
            context.server(certificates),
            Expectations(
                server=True,
                name="",
                trust=context.trust,
                certificate_demanded=certificates is ClientCertificates.DEMAND,
                alpn=self._options.alpn,
            ),
        )

    def _wanted(self, security: str) -> ClientCertificates:
        if security != "mtls":
            if self._options.mutualverf:
                return ClientCertificates.REQUEST
            return ClientCertificates.IGNORE
        if self._options.trust.is_system:
            raise HandshakeFailure(
                "setup",
                "the export demands client certificates, and rpctlssd has no CA to verify them by",
                "start rpctlssd with -m and -l CAFILE",
            )
        return ClientCertificates.DEMAND


@click.command("rpctlssd")
@server_options
@start_options
def command(**values: Any) -> None:
    """Do TLS handshakes for the server host with run directory RUNDIR.

    Where the host demands mutual TLS, clients must show a certificate from a CA in -l. SIGHUP has
    certificates, keys and revocation lists read again. Ends when the host does, or on SIGTERM.
    """
    options = ServerOptions.of(values)
    make: Callable[[Kernel], HandshakeService] = partial(ServerService, options=options)

    def alone(launch: Launch) -> None:
        serve(Kernel(options.rundir), "rpctlssd", make, launch.ready)

    def one_of_them(number: int, ready: Callable[[], None], lifeline: int) -> None:
        kernel = Kernel(options.rundir)
        serve(kernel, "rpctlssd", make, ready, number=number, lifeline=lifeline)

    def several(launch: Launch) -> None:
        run_workers("rpctlssd", options.rundir, options.numdaemons, one_of_them, launch.ready)

    work = alone if options.numdaemons == 1 else several
    begin("rpctlssd", Start.of(values), partial(server_context, options), work)


def main() -> None:
    """The program."""
    program(command)
