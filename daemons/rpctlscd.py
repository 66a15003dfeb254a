"""rpctlscd: the handshake daemon of a client host, in the place of FreeBSD's rpc.tlsclntd(8)."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from umktls.abi.rpctls import RPCTLSERR_OK, RpctlsErr, RpctlsSysc
from umktls.rpc.server import CallContext, Handler
from umktls.upcall.rpctls import RPCTLSCD_V1, rpctlscd_connect_arg, rpctlscd_connect_res
from umktls.userland.libc import Kernel

from .failure import HandshakeFailure
from .handshake import Expectations
from .identity import ConfigurationError, Identity
from .options import Options, common_options, set_up_logging
from .running import Registration, exit_codes, run
from .service import Attempt, HandshakeService, Taken
from .tlsadapter import TlsContext, TlsSession

__all__ = ["ClientService", "SessionCache", "main"]

REGISTRATION = Registration(
    RPCTLSCD_V1,
    RpctlsSysc.RPCTLS_SYSC_CLSETPATH,
    RpctlsSysc.RPCTLS_SYSC_CLSHUTDOWN,
    "rpctlscd.sock",
)

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


class ClientService(HandshakeService):
    """CONNECT of RPCTLSCD: a TLS client."""

    def __init__(self, kernel: Kernel, options: Options) -> None:
        super().__init__(kernel)
        self._options = options
        self._make_context = options.context_factory(server=False)
        self._contexts: dict[str | None, TlsContext] = {None: self._make_context(None)}
        self._lock = threading.Lock()
        self._cache = SessionCache()
        # Before serving, so that a passphrase can be asked for on the terminal. Without -m it may
        # be missing; then it is missed when a mount asks for mutual TLS.
        identity = options.identity()
        if options.mutualverf or identity.certificate.exists():
            self._contexts[""] = self._make_context(identity)

    def handlers(self) -> dict[str, Handler]:
        return {**super().handlers(), "CONNECT": self._connect}

    def _connect(self, argument: rpctlscd_connect_arg, _: CallContext) -> rpctlscd_connect_res:
        certname = argument.name.decode("utf-8", "surrogateescape")
        name = self.connect(RpctlsSysc.RPCTLS_SYSC_CLSOCKET, partial(self._prepare, certname))
        if isinstance(name, RpctlsErr):
            return rpctlscd_connect_res(name, 0, 0, 0)
        return rpctlscd_connect_res(RPCTLSERR_OK, name.sec, name.usec, name.ssl)

    def _prepare(self, certname: str, taken: Taken) -> Attempt:
        # A kernel that does not tell the name leaves the address to be checked.
        server = taken.sock.peer_name() or taken.address
        if not server:
            raise HandshakeFailure(
                "setup",
                "the kernel does not say which server this is, so its certificate cannot be "
                "checked",
                "mount by name or by address over TCP",
            )
        wanted = bool(certname) or self._options.mutualverf or taken.security == "mtls"
        which = certname if wanted else None
        context = self._context(which)
        key = (server, taken.address, taken.port, which)
        return Attempt(
            context.client(server, self._cache.take(key)),
            Expectations(server=False, name=server, trust=context.trust),
            keep=partial(self._cache.put, key),
        )

    def _context(self, certname: str | None) -> TlsContext:
        """The context with the certificate of that name: "" is cert.pem, None is none."""
        with self._lock:
            context = self._contexts.get(certname)
            if context is None and certname is not None:
                context = self._contexts[certname] = self._load(certname)
        assert context is not None
        return context

    def _load(self, certname: str) -> TlsContext:
        identity: Identity = self._options.identity(certname)
        try:
            if Path(certname).name != certname:
                raise ConfigurationError(f"{certname!r} is no certificate's name")
            return self._make_context(identity)
        except ConfigurationError as error:
            raise HandshakeFailure(
                "setup",
                f"a client certificate is to be shown, and there is none to be used: {error}",
                f"put {identity.certificate.name} and {identity.key.name} into "
                f"{self._options.certdir}, or mount without -o mtls",
            ) from error


@click.command()
@common_options("/etc/rpc.tlsclntd")
@click.option("-m", "--mutualverf", is_flag=True, help="Show the client certificate to servers.")
def main(
    rundir: Path,
    certdir: Path,
    verifylocs: Path | None,
    ciphers: str | None,
    keylog: Path | None,
    verbose: bool,
    debuglevel: bool,
    mutualverf: bool,
) -> None:
    """Do TLS handshakes for the client host with run directory RUNDIR.

    The server's certificate must come from a trusted CA and carry the name or the address that was
    mounted. Ends when the host does, or on SIGTERM.
    """
    set_up_logging("rpctlscd", verbose, debuglevel)
    options = Options(rundir, certdir, verifylocs, mutualverf, keylog, ciphers)
    make: Callable[[Kernel], HandshakeService] = partial(ClientService, options=options)
    with exit_codes("rpctlscd"):
        run(Kernel(rundir), REGISTRATION, make)
