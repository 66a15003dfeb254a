"""What every server host is told, whatever it serves: `umktls serve` and `umktls front`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import click

from umktls.abi.freebsd import TLS_MINOR_VER_THREE
from umktls.abi.personality import personality
from umktls.abi.ports import NFS_PORT
from umktls.abi.rpctls import DEFAULT_CONNECTS, DEFAULT_IDLE_SECONDS
from umktls.certs import layout
from umktls.cli.capture_options import CAPTURE_OPTIONS, wanted_capture
from umktls.cli.options import DIRECTORY, FILE, Decorator, Seconds, personality_option
from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines import Route, get_engine, route_of
from umktls.ktls.engines.choice import parse_engines

# What a server needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.kernel.host.commands import AgentCommand
    from umktls.kernel.krpc.serverhost import ServerConfig
    from umktls.nfsd.exports.exports import Security

__all__ = [
    "ABOUT_THE_HOST",
    "ABOUT_THE_NETWORK",
    "ABOUT_TLS",
    "HostOptions",
    "with_options",
]

# Of rpctlssd: TLS 1.2 too.
OLDER_TLS = frozenset({"-2", "--allowtls1_2"})
NO_FACTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class HostOptions:
    """The part of the command line that is about the host."""

    port: int
    hosts: tuple[str, ...]
    certs: Path | None
    level: str | None
    demand_certificate: bool
    engine: str
    bounce: str
    personality: str
    no_daemon: bool
    daemon: str | None
    daemons: int
    workers: int
    upcall_timeout: float | None
    upcalls: int
    max_connections: int | None
    max_startups: int | None
    idle_timeout: float
    crl: Path | None
    alpn: str
    rekey: str
    daemon_args: str
    rundir: Path | None
    keylog: Path | None
    capture: Path | None
    secrets: bool
    capture_size: str | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From what click has parsed; paths become absolute."""
        named = {field.name: values[field.name] for field in fields(cls)}
        for name, value in named.items():
            if isinstance(value, Path):
                named[name] = value.absolute()
        return cls(**named)

    @property
    def offer_tls(self) -> bool:
        """Whether the AUTH_TLS probe is to be answered by STARTTLS."""
        return self.level != "no-tls"

    def handshake(self, asked: Security) -> str:
        """What every handshake has to bring, where `asked` is asked of all clients.

        No certificate, unless --demand-certificate says so: with TLS 1.3 a client learns too late
        that one was missed, and Linux's tries for minutes. Who has none shakes hands and is told by
        AUTH_TOOWEAK, as by Linux's and FreeBSD's servers (rpc.tlsservd -m asks, and goes on).
        """
        if self.demand_certificate:
            return "mtls"
        return "none" if asked == "none" else "tls"

    def server_config(
        self,
        security: Security,
        rpctlssd: Sequence[str] = (),
        facts: Mapping[str, Any] = NO_FACTS,
        **more: Any,
    ) -> ServerConfig:
        """The host, of whose clients `security` is asked at least. `rpctlssd` are more arguments
        for that, `facts` is what else it says of itself, `more` is as ServerConfig has it.

        Raises CallerError for options that do not go together, UnsupportedError for an engine that
        cannot run here.
        """
        if self.daemon is not None and "--certuser" in rpctlssd:
            raise CallerError(
                "-tlscertuser: an agent of Linux's handshake upcall tells the kernel no user; "
                "leave out --daemon, or that option"
            )
        from umktls.kernel.krpc.admission import Limits
        from umktls.kernel.krpc.serverhost import ServerConfig

        limits = Limits(self.max_connections, self.max_startups, self.idle_timeout)
        limits.check(self.workers)
        return ServerConfig(
            hosts=self.hosts,
            port=self.port,
            security=self.handshake(security),
            facts={**facts, "security": security},
            offer_tls=self.offer_tls,
            certs=self.certs,
            engine=parse_engines(self.engine),
            bounce=self.bounce == "allow",
            personality=personality(self.personality),
            no_daemon=self.no_daemon,
            agent=self.agent(),
            daemons=self.daemons,
            upcall_seconds=self.upcall_timeout,
            rekey=self.rekey,
            connects=self.upcalls,
            limits=limits,
            rundir=self.rundir,
            keylog=self.keylog,
            capture=wanted_capture(self.capture, self.secrets, self.capture_size),
            daemon_arguments=(*self._arguments(), *rpctlssd, *self.given_arguments()),
            **more,
        )

    def _arguments(self) -> list[str]:
        """What these options mean for rpctlssd."""
        crl = [] if self.crl is None else ["--crl", str(self.crl)]
        return ["--alpn", self.alpn, *crl]

    def agent(self) -> AgentCommand | None:
        """What --daemon says. Raises CallerError."""
        from umktls.kernel.host.commands import AgentCommand, agent_words

        if self.daemon is None:
            return None
        words = agent_words("--daemon", self.daemon)
        return AgentCommand("rpctlssd", words=words, directory=Path.cwd())

    def check_tls(self) -> None:
        """Complain before anything is started. Raises CallerError."""
        if self.demand_certificate and not self.offer_tls:
            raise CallerError(
                "--demand-certificate is about handshakes, and --no-tls offers none: leave out one"
            )
        self._check_agent()
        self._check_reception()
        if self.certs is not None:
            layout.find(self.certs, "server")
        elif self.offer_tls and not self.no_daemon and self.daemon is None:
            raise CallerError(
                "TLS needs certificates: pass --certs DIR (`umktls certs DIR` makes a set for "
                "trying things out), or serve in clear with --no-tls"
            )

    def _check_agent(self) -> None:
        from umktls.kernel.host.commands import check_agent

        check_agent(self.agent(), self.no_daemon, personality(self.personality))
        if self.daemon is None:
            return
        if self.daemon_args or self.crl or self.daemons > 1:
            raise CallerError(
                "--daemon-args, --crl and --daemons are about rpctlssd: what --daemon starts has a "
                "configuration of its own"
            )
        if not self.offer_tls:
            raise CallerError(
                "--daemon is about handshakes, and --no-tls offers none: leave out one"
            )

    def _check_reception(self) -> None:
        """A server that could receive from nobody need not start."""
        newest = personality(self.personality).keys.rx_newest
        if not self.offer_tls or self.no_daemon or newest >= TLS_MINOR_VER_THREE:
            return
        route = route_of(get_engine(parse_engines(self.engine).rx))
        older = OLDER_TLS.intersection(self.given_arguments())
        if self.bounce != "allow" and route not in (Route.BOUNCE, Route.CLEAR) and not older:
            raise CallerError(
                f"the kernel of {self.personality} cannot receive TLS 1.3: add --bounce allow, or "
                "--daemon-args=-2 to accept TLS 1.2 too (for mounts with -o tls1_2)"
            )

    def given_arguments(self) -> list[str]:
        """What --daemon-args says. Raises CallerError."""
        try:
            return shlex.split(self.daemon_args)
        except ValueError as error:
            raise CallerError(f"--daemon-args {self.daemon_args!r}: {error}") from error


# The command line.


ABOUT_THE_NETWORK: list[Decorator] = [
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=NFS_PORT,
        show_default=True,
        help="0 takes a free one.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(1),
        metavar="N",
        help="So many clients' connections at most.  [default: as many as there are descriptors "
        "for, 4096 at most]",
    ),
    click.option(
        "--max-startups",
        type=click.IntRange(1),
        metavar="N",
        help="Of these, so many that have neither a TLS session nor made a call yet, as sshd has "
        "it; for one more the longest silent one ends.  [default: half of all]",
    ),
    click.option(
        "--idle-timeout",
        type=Seconds(0),
        default=DEFAULT_IDLE_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="End connections that were idle for so long, as FreeBSD and Linux do; their clients "
        "connect again when they have a call. 0: never.",
    ),
    click.option(
        "--host",
        "hosts",
        multiple=True,
        default=("localhost",),
        show_default="localhost",
        metavar="NAME|ADDRESS",
        help="What to listen on; may be given more than once. 0.0.0.0 is all addresses of IPv4, :: "
        "all of IPv4 and IPv6.",
    ),
]
ABOUT_TLS: list[Decorator] = [
    click.option(
        "--certs", type=DIRECTORY, help="What `umktls certs` made; its server/ and ca.pem."
    ),
    click.option(
        "--demand-certificate",
        is_flag=True,
        help="Have the handshake fail where a client shows no certificate, whoever may come in. "
        "Without it such a client gets a session, in which its calls are refused with the reason "
        "(AUTH_TOOWEAK); so it takes up a connection, but knows why.",
    ),
    click.option(
        "--engine",
        default="software",
        show_default=True,
        metavar="NAME|tx=NAME,rx=NAME",
        help="What seals and opens the records; `umktls engines` lists them.",
    ),
    click.option(
        "--bounce",
        type=click.Choice(["allow", "refuse"]),
        default="refuse",
        show_default=True,
        help="May the daemon do SSL_write and SSL_read where the engine cannot serve a connection?",
    ),
    personality_option(
        "Whose kernel TLS is emulated; docs/compatibility.md tells how they differ."
    ),
    click.option("--no-daemon", is_flag=True, help="Start no rpctlssd: one is started by hand."),
    click.option(
        "--daemon",
        metavar="COMMAND",
        help="Start this in place of an rpctlssd, and keep it alive: an unmodified agent for "
        "Linux's handshake upcall, such as 'tlshd -s -c FILE' (docs/unmodified.md). It has "
        "certificates of its own.",
    ),
    click.option(
        "--daemons",
        type=click.IntRange(1, 16),
        default=1,
        show_default=True,
        help="How many processes of rpctlssd do handshakes.",
    ),
    click.option(
        "--upcall-timeout",
        type=Seconds(0.1, 600),
        metavar="SECONDS",
        help="How long a daemon may take for a handshake.  [default: 15; linux: 5]",
    ),
    click.option(
        "--upcalls",
        type=click.IntRange(1, 512),
        default=DEFAULT_CONNECTS,
        show_default=True,
        help="How many handshakes a daemon is given at once; the others wait. (A daemon that knows "
        "version 1 of the upcall only is given one.)",
    ),
    click.option(
        "--crl",
        type=FILE,
        help="Revocation lists (PEM), one for each CA; SIGHUP has them read again, with the "
        "certificates and keys.",
    ),
    click.option(
        "--alpn",
        type=click.Choice(["auto", "strict", "compat"]),
        default="auto",
        show_default=True,
        help="What of clients that do not say `sunrpc` by ALPN, such as those of FreeBSD and "
        "Linux: go on and tell, turn them down, or go on and be silent.",
    ),
    click.option(
        "--rekey",
        type=click.Choice(["auto", "keyupdate", "reconnect", "never"]),
        default="auto",
        show_default=True,
        help="How keys are renewed that are nearly used up. auto: where a client is known to "
        "follow a KeyUpdate (Linux before 6.14 does not) by that, else the connection ends in "
        "order, and the client makes a new one. never: it ends when a key is used up.",
    ),
    click.option("--daemon-args", default="", metavar="OPTIONS", help="More options for rpctlssd."),
    click.option("--keylog", type=FILE, help="Append the TLS secrets to this file, for Wireshark."),
]
ABOUT_THE_HOST: list[Decorator] = [
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        metavar="N",
        help="Serve with so many processes, one for each processor that the server may use. They "
        "are one host for clients, and for `umktls stat` and the others. The limits are for all "
        "together; --daemons is for each.",
    ),
    click.option("--rundir", type=DIRECTORY, help="Run directory of the host, with its sockets."),
    *CAPTURE_OPTIONS,
]


def with_options(options: list[Decorator]) -> Decorator:
    """A decorator that adds all of them to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
