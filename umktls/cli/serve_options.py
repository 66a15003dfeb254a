"""What `umktls serve` is told, and the exports and the host that come of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.abi.freebsd import TLS_MINOR_VER_THREE
from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES, personality
from umktls.abi.rpctls import DEFAULT_CONNECTS, DEFAULT_IDLE_SECONDS
from umktls.certs import layout
from umktls.errors import CallerError
from umktls.ktls.engines import Route, get_engine, route_of
from umktls.ktls.engines.choice import parse_engines

# What a server needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.kernel.server import ServerConfig
    from umktls.nfsd.exports import Export, Security, Squash

__all__ = ["ServeOptions", "handshake_security", "serve_options"]

NFS_PORT = 2049
# What the flags ask of a client at least.
SECURITY: dict[str | None, Security] = {"tls": "tls", "mtls": "mtls", "certuser": "certuser"}
# Of rpctlssd: TLS 1.2 too.
OLDER_TLS = frozenset({"-2", "--allowtls1_2"})
# Options about exports, which belong to directories named on the command line.
ABOUT_EXPORTS = {
    "level": "-tls, -tlscert and -tlscertuser",
    "read_only": "--read-only",
    "squash": "--no-root-squash and --squash",
    "insecure": "--insecure",
}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command line."""

    directories: tuple[Path, ...]
    exports_file: Path | None
    port: int
    hosts: tuple[str, ...]
    certs: Path | None
    level: str | None
    mount_tls: bool
    engine: str
    bounce: str
    personality: str
    read_only: bool
    squash: Squash | None
    insecure: bool
    no_daemon: bool
    daemons: int
    upcall_timeout: float | None
    upcalls: int
    max_connections: int | None
    max_startups: int | None
    idle_timeout: float
    crl: Path | None
    alpn: str
    rekey: str
    certuser: bool
    domain: str | None
    daemon_args: str
    rundir: Path | None
    state_dir: Path | None
    keylog: Path | None

    @classmethod
    def of(cls, values: dict[str, Any]) -> ServeOptions:
        """From what click has parsed; paths become absolute."""
        named = {field.name: values[field.name] for field in fields(cls)}
        for name, value in named.items():
            if isinstance(value, Path):
                named[name] = value.absolute()
        return cls(**named)

    @property
    def offer_tls(self) -> bool:
        return self.level != "no-tls"

    def exports(self) -> list[Export]:
        """What is to be exported, from the command line or from the file as it is now.

        Raises CallerError.
        """
        from umktls.nfsd.exports_file import read_exports

        if self.exports_file is None:
            return self._exports_of_directories()
        if self.directories:
            raise CallerError("name directories, or a file of exports with --exports, not both")
        for name, option in ABOUT_EXPORTS.items():
            if getattr(self, name) and (name, self.level) != ("level", "no-tls"):
                raise CallerError(f"{option}: with --exports, that is said in the file")
        return read_exports(self.exports_file)

    def _exports_of_directories(self) -> list[Export]:
        from umktls.nfsd.exports import Export

        if not self.directories:
            raise CallerError("nothing to serve: name a directory, or a file with --exports")
        return [
            Export(
                str(directory),
                read_only=self.read_only,
                security=SECURITY.get(self.level, "none"),
                squash=self.squash or "root",
                secure=not self.insecure,
            )
            for directory in self.directories
        ]

    def config(self, exports: Sequence[Export]) -> ServerConfig:
        """The host for these exports.

        Raises CallerError for options that do not go together, UnsupportedError for an engine that
        cannot run here.
        """
        from umktls.kernel.admission import Limits
        from umktls.kernel.server import ServerConfig
        from umktls.nfsd.exports_engines import engine_for

        self._check(exports)
        limits = Limits(self.max_connections, self.max_startups, self.idle_timeout)
        limits.check()
        return ServerConfig(
            hosts=self.hosts,
            port=self.port,
            security=handshake_security(exports),
            offer_tls=self.offer_tls,
            certs=self.certs,
            engine=parse_engines(self.engine),
            engine_for=partial(engine_for, exports),
            bounce=self.bounce == "allow",
            personality=personality(self.personality),
            no_daemon=self.no_daemon,
            daemons=self.daemons,
            upcall_seconds=self.upcall_timeout,
            rekey=self.rekey,
            connects=self.upcalls,
            limits=limits,
            rundir=self.rundir,
            keylog=self.keylog,
            daemon_arguments=self._daemon_arguments(exports),
            facts={"exports": [export.name for export in exports]},
        )

    def _check(self, exports: Sequence[Export]) -> None:
        """Complain before anything is started."""
        from umktls.kernel.engines import chosen_engines
        from umktls.nfsd.exports_engines import engines_asked_for

        for choice in engines_asked_for(exports):
            chosen_engines(choice)
        if not self.offer_tls:
            for export in exports:
                if export.level:
                    raise CallerError(f"{export.name} asks for TLS, and --no-tls offers none")
        # A file may ask for users later, or no more.
        if self.domain is not None and self.exports_file is None and not self._certuser(exports):
            raise CallerError("--domain is about the users in certificates: see --certuser")
        self._check_reception()
        if self.certs is not None:
            layout.find(self.certs, "server")
        elif self.offer_tls and not self.no_daemon:
            raise CallerError(
                "TLS needs certificates: pass --certs DIR (`umktls certs DIR` makes a set for "
                "trying things out), or serve in clear with --no-tls"
            )

    def _check_reception(self) -> None:
        """A server that could receive from nobody need not start."""
        newest = personality(self.personality).keys.rx_newest
        if not self.offer_tls or self.no_daemon or newest >= TLS_MINOR_VER_THREE:
            return
        route = route_of(get_engine(parse_engines(self.engine).rx))
        older = OLDER_TLS.intersection(self._given_arguments())
        if self.bounce != "allow" and route not in (Route.BOUNCE, Route.CLEAR) and not older:
            raise CallerError(
                f"the kernel of {self.personality} cannot receive TLS 1.3: add --bounce allow, or "
                "--daemon-args=-2 to accept TLS 1.2 too (for mounts with -o tls1_2)"
            )

    def _certuser(self, exports: Sequence[Export]) -> bool:
        from umktls.nfsd.exports import LEVELS

        return self.certuser or any(export.level == LEVELS["certuser"] for export in exports)

    def _daemon_arguments(self, exports: Sequence[Export]) -> tuple[str, ...]:
        arguments = ["--alpn", self.alpn]
        if self.crl is not None:
            arguments += ["--crl", str(self.crl)]
        if self._certuser(exports):
            arguments.append("--certuser")
            if self.domain is not None:
                arguments += ["--domain", self.domain]
        return (*arguments, *self._given_arguments())

    def _given_arguments(self) -> list[str]:
        """What --daemon-args says. Raises CallerError."""
        try:
            return shlex.split(self.daemon_args)
        except ValueError as error:
            raise CallerError(f"--daemon-args {self.daemon_args!r}: {error}") from error


def handshake_security(exports: Sequence[Export]) -> str:
    """What every handshake has to bring: none, tls or mtls. Users come after it."""
    from umktls.nfsd.exports import least_security

    security = least_security(exports)
    return "mtls" if security == "certuser" else security


# The command line.

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

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
        type=click.FloatRange(0),
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
ABOUT_WHAT_IS_SERVED: list[Decorator] = [
    click.option(
        "--exports",
        "exports_file",
        type=FILE,
        help="A file that says what is served to whom, much like exports(5); SIGHUP has it read "
        "again. In place of directories and the options about them.",
    ),
    click.option(
        "--tls-required", "-tls", "level", flag_value="tls", help="Refuse clients without TLS."
    ),
    click.option(
        "--mtls-required",
        "-tlscert",
        "level",
        flag_value="mtls",
        help="And those that show no certificate.",
    ),
    click.option(
        "--user-required",
        "-tlscertuser",
        "level",
        flag_value="certuser",
        help="And those whose certificate names no user.",
    ),
    click.option(
        "--no-tls", "level", flag_value="no-tls", help="Offer no TLS: everything goes in clear."
    ),
    click.option(
        "--mount-tls",
        is_flag=True,
        help="Have MOUNT, by which clients ask for an export's root, ask for TLS as NFS does. The "
        "clients of kernels call MOUNT in clear, and cannot mount then.",
    ),
    click.option("--read-only", is_flag=True, help="Let nobody change anything."),
    click.option(
        "--squash",
        type=click.Choice(["none", "root", "all"]),
        help="Whose calls are done as the user nobody, as exports(5) has it.  [default: root]",
    ),
    click.option(
        "--no-root-squash",
        "squash",
        flag_value="none",
        help="Let root of a client be root here: the same as --squash none.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Let callers act as the user they say they are even if any program of their machine "
        "may have called: from a port of 1024 or more, and with no certificate.",
    ),
]
ABOUT_TLS: list[Decorator] = [
    click.option(
        "--certs", type=DIRECTORY, help="What `umktls certs` made; its server/ and ca.pem."
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
    click.option(
        "--personality",
        type=click.Choice(tuple(PERSONALITIES)),
        default=DEFAULT_PERSONALITY.name,
        show_default=True,
        help="Whose kernel TLS is emulated; docs/compatibility.md tells how they differ.",
    ),
    click.option("--no-daemon", is_flag=True, help="Start no rpctlssd: one is started by hand."),
    click.option(
        "--daemons",
        type=click.IntRange(1, 16),
        default=1,
        show_default=True,
        help="How many processes of rpctlssd do handshakes.",
    ),
    click.option(
        "--upcall-timeout",
        type=click.FloatRange(0.1, 600),
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
    click.option(
        "--certuser",
        is_flag=True,
        help="Do a client's calls as the user in its certificate, if there is one.",
    ),
    click.option("--domain", help="The domain of those users, in place of this host's."),
    click.option("--daemon-args", default="", metavar="OPTIONS", help="More options for rpctlssd."),
    click.option("--keylog", type=FILE, help="Append the TLS secrets to this file, for Wireshark."),
]
ABOUT_THE_HOST: list[Decorator] = [
    click.option("--rundir", type=DIRECTORY, help="Run directory of the host, with its sockets."),
    click.option(
        "--state",
        "state_dir",
        type=DIRECTORY,
        help="Directory for what must outlive the server: the key of file handles.  "
        "[default: /var/lib/umktls for root, else ~/.local/state/umktls]",
    ),
]


def serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds all of them to a command, which gets them by the names of `ServeOptions`."""
    options = [*ABOUT_THE_NETWORK, *ABOUT_WHAT_IS_SERVED, *ABOUT_TLS, *ABOUT_THE_HOST]
    for option in reversed(options):
        command = option(command)
    return command
