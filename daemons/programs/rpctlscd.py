"""rpctlscd: the handshake daemon of a client host, in the place of FreeBSD's rpc.tlsclntd(8)."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from umktls.abi.rpctls import RPCTLSERR_OK, RpctlsErr
from umktls.userland.libc import Kernel
from umktls.userland.upcalls import Connect, Connected

from ..sessions.established import EstablishedSession
from ..sessions.handshake import Expectations
from ..tls.failure import HandshakeFailure, VerifyProblem
from ..tls.hostnames import is_address, reverse_name
from ..tls.identity import ConfigurationError, Identity
from ..tls.keylog import KeyLogFile
from ..tls.tlsadapter import Chain, TlsContext, TlsSession
from .background import Launch
from .options import ClientOptions, client_options
from .running import Start, begin, program, serve, start_options
from .service import HandshakeService
from .taken import Attempt, Taken

__all__ = ["ClientService", "ClientTls", "SessionCache", "main"]

# Name, address and port of the server, and the certificate shown to it.
CacheKey = tuple[str, str, int, str | None]


class SessionCache:
    """Sessions to resume, a few per server. Each ticket is used once (RFC 8446 appendix C.4)."""

    def __init__(self, servers: int = 1024, tickets: int = 4) -> None:
        self._servers = servers
        self._tickets = tickets
        self._sessions: OrderedDict[CacheKey, deque[TlsSession]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: CacheKey, session: TlsSession) -> None:
        """Keep a session; the server that was not used for longest is forgotten if need be."""
        with self._lock:
            kept = self._sessions.setdefault(key, deque(maxlen=self._tickets))
            kept.append(session)
            self._sessions.move_to_end(key)
            if len(self._sessions) > self._servers:
                self._sessions.popitem(last=False)

    def take(self, key: CacheKey) -> TlsSession | None:
        """The newest session for this server, which is then no longer kept."""
        with self._lock:
            kept = self._sessions.get(key)
            return kept.pop() if kept else None


class ClientTls:
    """What handshakes are made with: a context per certificate, and the sessions to resume, which
    are bound to their contexts. A reload makes all of it anew. Raises `ConfigurationError`.

    Without -m cert.pem is read when a mount asks for mutual TLS: other mounts need neither it nor
    its key, which may be for root's eyes only.
    """

    def __init__(self, options: ClientOptions, keylog: KeyLogFile | None = None) -> None:
        options.check()
        self._options = options
        self._make = options.context_factory(server=False, keylog=keylog)
        self.anonymous = self._make(None)
        self.cache = SessionCache()
        self._lock = threading.Lock()
        self._named: dict[str, TlsContext] = {}
        if options.mutualverf:
            self._named[""] = self._make(options.identity())

    def log_remarks(self) -> None:
        """What there is to say of the certificates that are loaded."""
        for context in self._named.values():
            context.log_remarks()

    def context(self, certname: str | None) -> TlsContext:
        """The context with the certificate of that name: "" is cert.pem, None is none."""
        if certname is None:
            return self.anonymous
        with self._lock:
            context = self._named.get(certname)
            if context is None:
                context = self._named[certname] = self._load(certname)
        return context

    def _load(self, certname: str) -> TlsContext:
        identity: Identity = self._options.identity(certname)
        try:
            if Path(certname).name != certname:
                raise ConfigurationError(f"{certname!r} is no certificate's name")
            context = self._make(identity)
        except ConfigurationError as error:
            raise HandshakeFailure(
                "setup",
                f"a client certificate is to be shown, and there is none to be used: {error}",
                f"put {identity.certificate.name} and {identity.key.name} into "
                f"{self._options.certdir}, or mount without -o mtls",
            ) from error
        context.log_remarks()
        return context


class ClientService(HandshakeService):
    """CONNECT of RPCTLSCD: a TLS client."""

    server = False

    def __init__(self, kernel: Kernel, options: ClientOptions) -> None:
        super().__init__(kernel, handover=options.handover)
        self._options = options
        self._keylog = options.open_keylog()
        self.load()

    def load(self) -> None:
        self._tls = ClientTls(self._options, self._keylog)
        self._tls.log_remarks()

    def problem_with(self, chain: Chain) -> VerifyProblem | None:
        return self._tls.anonymous.chains.problem_with(chain)

    def handlers(self) -> dict[str, Callable[[Any], Any]]:
        return {**super().handlers(), "CONNECT": self._connect}

    def _connect(self, upcall: Connect) -> Connected:
        certname = upcall.certname.decode("utf-8", "surrogateescape")
        session = self.connect(upcall, partial(self._prepare, certname))
        if isinstance(session, RpctlsErr):
            return Connected(reterr=session)
        return self.answer_of(session)

    def answer_of(self, session: EstablishedSession) -> Connected:
        return Connected(reterr=RPCTLSERR_OK)

    def _prepare(self, certname: str, taken: Taken) -> Attempt:
        tls = self._tls
        server = self._server_name(taken)
        mutual = self._options.mutualverf and taken.security != "anonymous"
        wanted = bool(certname) or mutual or taken.security == "mtls"
        which = certname if wanted else None
        context = tls.context(which)
        key = (server, taken.address, taken.port, which)
        return Attempt(
            context.client(server, tls.cache.take(key)),
            Expectations(
                server=False,
                name=server,
                trust=context.trust,
                alpn=self._options.alpn,
            ),
            keep=partial(tls.cache.put, key),
        )

    def _server_name(self, taken: Taken) -> str:
        """What the server's certificate has to be for: the name that the user typed.

        A kernel that does not tell it leaves the address. Raises `HandshakeFailure`.
        """
        typed = taken.sock.peer_name() or taken.address
        if not typed:
            raise HandshakeFailure(
                "setup",
                "the kernel does not say which server this is, so its certificate cannot be "
                "checked",
                "mount by name or by address over TCP",
            )
        if not (self._options.reverse_dns and is_address(typed)):
            return typed
        found = reverse_name(typed, taken.deadline)
        if not found:
            raise HandshakeFailure(
                "name",
                f"DNS gives no name for the address {typed}, and the server's certificate was to "
                "be checked for that name",
                "mount by name, or leave out --reverse-dns",
            )
        return found


@click.command("rpctlscd")
@client_options
@start_options
def command(**values: Any) -> None:
    """Do TLS handshakes for the client host with run directory RUNDIR.

    The server's certificate must come from a trusted CA and carry the name or the address that was
    mounted. SIGHUP has certificates, keys and revocation lists read again. Ends when the host does,
    or on SIGTERM.
    """
    options = ClientOptions.of(values)
    make: Callable[[Kernel], HandshakeService] = partial(ClientService, options=options)

    def work(launch: Launch) -> None:
        serve(Kernel(options.rundir), "rpctlscd", make, launch.ready)

    begin("rpctlscd", Start.of(values), partial(ClientTls, options), work)


def main() -> None:
    """The program."""
    program(command)
