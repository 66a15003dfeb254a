"""rpctlssd: the handshake daemon of a server host, in the place of FreeBSD's rpc.tlsservd(8)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from umktls.abi.rpctls import RpctlsErr, RpctlsFlags, RpctlsSysc
from umktls.rpc.server import CallContext, Handler
from umktls.upcall.rpctls import RPCTLSSD_V1, rpctlssd_connect_res
from umktls.userland.libc import Kernel

from .failure import HandshakeFailure
from .handshake import Expectations
from .identity import ConfigurationError
from .options import Options, common_options, set_up_logging
from .running import Registration, exit_codes, run
from .service import Attempt, HandshakeService, Taken
from .tlsadapter import ClientCertificates

__all__ = ["ServerService", "main"]

REGISTRATION = Registration(
    RPCTLSSD_V1,
    RpctlsSysc.RPCTLS_SYSC_SRVSETPATH,
    RpctlsSysc.RPCTLS_SYSC_SRVSHUTDOWN,
    "rpctlssd.sock",
)


class ServerService(HandshakeService):
    """CONNECT of RPCTLSSD: a TLS server.

    A client certificate that is shown must verify, even where none is demanded (RFC 9289 section
    5.2.2): so with GOTCERT there is always VERIFIED.
    """

    def __init__(self, kernel: Kernel, options: Options) -> None:
        super().__init__(kernel)
        if options.mutualverf and options.verifylocs is None:
            raise ConfigurationError("-m needs -l: the CAs that sign client certificates")
        self._options = options
        self._context = options.context_factory(server=True)(options.identity())

    def handlers(self) -> dict[str, Handler]:
        return {**super().handlers(), "CONNECT": self._connect}

    def _connect(self, _: None, __: CallContext) -> rpctlssd_connect_res:
        name = self.connect(RpctlsSysc.RPCTLS_SYSC_SRVSOCKET, self._prepare)
        if isinstance(name, RpctlsErr):
            return rpctlssd_connect_res(0, 0, 0, 0, 0, ())
        session = self.sessions.get(name)
        flags = RpctlsFlags.RPCTLS_FLAGS_HANDSHAKE
        if session is not None and session.peer_verified:
            flags |= RpctlsFlags.RPCTLS_FLAGS_GOTCERT | RpctlsFlags.RPCTLS_FLAGS_VERIFIED
        return rpctlssd_connect_res(flags, name.sec, name.usec, name.ssl, 0, ())

    def _prepare(self, taken: Taken) -> Attempt:
        certificates = self._wanted(taken.security)
        return Attempt(
            self._context.server(certificates),
            Expectations(
                server=True,
                name="",
                trust=self._context.trust,
                certificate_demanded=certificates is ClientCertificates.DEMAND,
            ),
        )

    def _wanted(self, security: str) -> ClientCertificates:
        if security != "mtls":
            if self._options.mutualverf:
                return ClientCertificates.REQUEST
            return ClientCertificates.IGNORE
        if self._options.verifylocs is None:
            raise HandshakeFailure(
                "setup",
                "the export demands client certificates, and rpctlssd has no CA to verify them by",
                "start rpctlssd with -m and -l CAFILE",
            )
        return ClientCertificates.DEMAND


@click.command()
@common_options("/etc/rpc.tlsservd")
@click.option("-m", "--mutualverf", is_flag=True, help="Ask clients for a certificate; needs -l.")
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
    """Do TLS handshakes for the server host with run directory RUNDIR.

    Where the host demands mutual TLS, clients must show a certificate from a CA in -l. Ends when
    the host does, or on SIGTERM.
    """
    set_up_logging("rpctlssd", verbose, debuglevel)
    options = Options(rundir, certdir, verifylocs, mutualverf, keylog, ciphers)
    make: Callable[[Kernel], HandshakeService] = partial(ServerService, options=options)
    with exit_codes("rpctlssd"):
        run(Kernel(rundir), REGISTRATION, make)
