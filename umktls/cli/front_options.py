"""What `umktls front` is told, and the host, the backends and the clients that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umktls.cli.host_options import (
    ABOUT_THE_HOST,
    ABOUT_THE_NETWORK,
    ABOUT_TLS,
    HostOptions,
    with_options,
)
from umktls.cli.options import FILE, MTLS_REQUIRED, Decorator, Seconds, tls_required
from umktls.dataclass import dataclass
from umktls.errors import CallerError

# What a front needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.front.backends import Server
    from umktls.front.boot import FrontConfig
    from umktls.front.clients import Clients
    from umktls.kernel.krpc.serverhost import ServerConfig
    from umktls.nfsd.exports.exports import Security

__all__ = ["FrontOptions", "front_options"]

SECURITY: dict[str | None, Security] = {None: "tls", "tls": "tls", "mtls": "mtls", "clear": "none"}


@dataclass(frozen=True, slots=True)
class FrontOptions(HostOptions):
    """The command line."""

    backends: tuple[str, ...]
    mount_backends: tuple[str, ...]
    backends_file: Path | None
    clients_file: Path | None
    mount_tls: bool
    balance: str
    proxy_protocol: str
    backend_resvport: bool
    check_interval: float
    connect_timeout: float

    def servers(self) -> list[Server]:
        """The backends, from the command line or from the file as it is now. Raises CallerError."""
        from umktls.front.backends import Server, place

        if self.backends_file is not None:
            if self.backends or self.mount_backends:
                raise CallerError("name backends, or a file of them with --backends, not both")
            return list(read_backends(self.backends_file))
        if not self.backends:
            raise CallerError("in front of what? Name a server with --backend HOST:PORT")
        mounts: tuple[str | None, ...] = self.mount_backends or (None,)
        if len(mounts) not in (1, len(self.backends)):
            raise CallerError(
                f"{len(mounts)} times --mount-backend for {len(self.backends)} times --backend: "
                "give one for all, or one for each in the same order"
            )
        mounts *= len(self.backends) if len(mounts) == 1 else 1
        return [
            Server(place(nfs), None if mount is None else place(mount))
            for nfs, mount in zip(self.backends, mounts, strict=True)
        ]

    def clients(self) -> Clients:
        """Who may come in, from the command line or from the file as it is now.

        Raises CallerError.
        """
        from umktls.front.clients import Allowed, Clients, read_clients

        if self.clients_file is None:
            return Clients([Allowed(SECURITY[self.level])])
        if self.level is not None:
            raise CallerError(
                "-tls, -tlscert and --clear: with --clients, that is said in the file"
            )
        return read_clients(self.clients_file)

    def host_config(self, clients: Clients) -> ServerConfig:
        """The host. Raises CallerError, UnsupportedError."""
        if self.certs is None and not self.no_daemon and self.daemon is None:
            raise CallerError(
                "TLS needs certificates: pass --certs DIR (`umktls certs DIR` makes a set for "
                "trying things out)"
            )
        self.check_tls()
        return self.server_config(clients.security)

    def front_config(self, clients: Clients) -> FrontConfig:
        """What is carried, and where to. Raises CallerError."""
        from umktls.front.backends import Policy
        from umktls.front.boot import FrontConfig

        policy = Policy(
            self.balance,
            self.proxy_protocol,
            self.backend_resvport,
            self.connect_timeout,
            self.check_interval,
        )
        return FrontConfig(self.servers(), clients, policy, self.mount_tls)


def read_backends(path: Path) -> Iterator[Server]:
    """A line for each: where it has NFS, and where MOUNT if that is elsewhere.

    Raises CallerError, which names the line.
    """
    from umktls.front.backends import Server, place

    try:
        lines = path.read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror}", error.errno) from error
    found = 0
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        try:
            if len(words) > 2:
                raise CallerError("a line has HOST:PORT, and another one for MOUNT, and no more")
            if words:
                yield Server(*map(place, words))
                found += 1
        except CallerError as error:
            raise CallerError(f"{path}:{number}: {error}") from error
    if not found:
        raise CallerError(f"{path}: there is no backend in it")


ABOUT_BACKENDS: list[Decorator] = [
    click.option(
        "--backend",
        "backends",
        multiple=True,
        metavar="HOST[:PORT]",
        help="A server that what comes is carried to, in clear; may be given more than once. "
        "[default port: 2049]",
    ),
    click.option(
        "--mount-backend",
        "mount_backends",
        multiple=True,
        metavar="HOST:PORT",
        help="Where calls of MOUNT (version 3 and before) go, if the backend has it on a port of "
        "its own. Once for all, or for each backend in the same order.",
    ),
    click.option(
        "--backends",
        "backends_file",
        type=FILE,
        help="A file with a line for each backend, HOST:PORT and another one for its MOUNT; SIGHUP "
        "has it read again.",
    ),
    click.option(
        "--balance",
        type=click.Choice(["first", "client"]),
        default="first",
        show_default=True,
        help="Which backend a client gets: the first that lives, or one by the client's address. "
        "All connections of a client go to one backend.",
    ),
    click.option(
        "--proxy-protocol",
        type=click.Choice(["none", "v1", "v2"]),
        default="none",
        show_default=True,
        help="Tell the backend who the client is, by HAProxy's PROXY protocol. A backend that does "
        "not expect it takes it for garbage.",
    ),
    click.option(
        "--backend-resvport",
        is_flag=True,
        help="Connect to the backends from ports below 1024, of which there are 359, for servers "
        "that believe only those (exports(5), `secure`).",
    ),
    click.option(
        "--check-interval",
        type=Seconds(0),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="How often each backend is asked by a NULL call; one that does not answer three times "
        "gets no clients. 0: never.",
    ),
    click.option(
        "--connect-timeout",
        type=Seconds(0.1, 600),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a connection to a backend may take, before the next one is tried.",
    ),
]
ABOUT_CLIENTS: list[Decorator] = [
    click.option(
        "--clients",
        "clients_file",
        type=FILE,
        help="A file that says who may come in with what, by address and certificate; SIGHUP has "
        "it read again.",
    ),
    tls_required("Refuse clients without TLS. This is the default."),
    MTLS_REQUIRED,
    click.option(
        "--clear", "level", flag_value="clear", help="Let clients without TLS come in, too."
    ),
    click.option(
        "--mount-tls",
        is_flag=True,
        help="Have MOUNT ask for what NFS asks for. The clients of kernels call MOUNT in clear, "
        "and cannot mount then.",
    ),
]

front_options = with_options(
    [*ABOUT_BACKENDS, *ABOUT_CLIENTS, *ABOUT_THE_NETWORK, *ABOUT_TLS, *ABOUT_THE_HOST]
)
"""Adds all of them to a command, which gets them by the names of `FrontOptions`."""
