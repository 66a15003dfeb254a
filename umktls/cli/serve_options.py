"""What `umktls serve` is told, and the exports and the host that come of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
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
from umktls.cli.options import DIRECTORY, FILE, MTLS_REQUIRED, Decorator, tls_required
from umktls.dataclass import dataclass
from umktls.errors import CallerError

# What a server needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.kernel.krpc.server import ServerConfig
    from umktls.nfsd.exports.exports import Export, Security, Squash

__all__ = ["ServeOptions", "serve_options"]

# What the flags ask of a client at least.
SECURITY: dict[str | None, Security] = {"tls": "tls", "mtls": "mtls", "certuser": "certuser"}
# Options about exports, which belong to directories named on the command line.
ABOUT_EXPORTS = {
    "level": "-tls, -tlscert and -tlscertuser",
    "read_only": "--read-only",
    "squash": "--no-root-squash and --squash",
    "insecure": "--insecure",
}


@dataclass(frozen=True, slots=True)
class ServeOptions(HostOptions):
    """The command line."""

    directories: tuple[Path, ...]
    exports_file: Path | None
    mount_port: int | None
    mount_tls: bool
    rpcbind: bool
    manage_gids: bool
    read_only: bool
    squash: Squash | None
    insecure: bool
    certuser: bool
    domain: str | None
    state_dir: Path | None

    def exports(self) -> list[Export]:
        """What is to be exported, from the command line or from the file as it is now.

        Raises CallerError.
        """
        from umktls.nfsd.exports.file import read_exports

        if self.exports_file is None:
            return self._exports_of_directories()
        if self.directories:
            raise CallerError("name directories, or a file of exports with --exports, not both")
        for name, option in ABOUT_EXPORTS.items():
            if getattr(self, name) and (name, self.level) != ("level", "no-tls"):
                raise CallerError(f"{option}: with --exports, that is said in the file")
        return read_exports(self.exports_file)

    def _exports_of_directories(self) -> list[Export]:
        from umktls.nfsd.exports.exports import Export

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
        from umktls.nfsd.exports.engines import engine_for
        from umktls.nfsd.exports.exports import least_security

        self._check(exports)
        return self.server_config(
            least_security(exports),
            self._about_users(exports),
            mount_port=self.mount_port,
            engine_for=partial(engine_for, exports),
            facts={"exports": [export.name for export in exports]},
        )

    def _check(self, exports: Sequence[Export]) -> None:
        """Complain before anything is started."""
        from umktls.kernel.sockets.engines import chosen_engines
        from umktls.nfsd.exports.engines import engines_asked_for

        for choice in engines_asked_for(exports):
            chosen_engines(choice)
        if not self.offer_tls:
            for export in exports:
                if export.level:
                    raise CallerError(f"{export.name} asks for TLS, and --no-tls offers none")
        if self.manage_gids and os.geteuid() != 0:
            raise CallerError(
                "--manage-gids is for root: as this user, the server does all calls as this user"
            )
        # A file may ask for users later, or no more.
        if self.domain is not None and self.exports_file is None and not self._certuser(exports):
            raise CallerError("--domain is about the users in certificates: see --certuser")
        self.check_tls()

    def _certuser(self, exports: Sequence[Export]) -> bool:
        from umktls.nfsd.exports.exports import LEVELS

        return self.certuser or any(export.level == LEVELS["certuser"] for export in exports)

    def _about_users(self, exports: Sequence[Export]) -> list[str]:
        """Arguments of rpctlssd."""
        if not self._certuser(exports):
            return []
        return ["--certuser", *([] if self.domain is None else ["--domain", self.domain])]


# The command line.

ABOUT_WHAT_IS_SERVED: list[Decorator] = [
    click.option(
        "--exports",
        "exports_file",
        type=FILE,
        help="A file that says what is served to whom, much like exports(5); SIGHUP has it read "
        "again. In place of directories and the options about them.",
    ),
    tls_required("Refuse clients without TLS."),
    MTLS_REQUIRED,
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
        "--mountport",
        "mount_port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Another port for MOUNT, which is to be had at the port of NFS in any case.",
    ),
    click.option(
        "--mount-tls",
        is_flag=True,
        help="Have MOUNT, by which clients ask for an export's root, ask for TLS as NFS does. The "
        "clients of kernels call MOUNT in clear, and cannot mount then.",
    ),
    click.option(
        "--rpcbind",
        is_flag=True,
        help="Tell this machine's rpcbind where NFS and MOUNT are, as long as the server runs: "
        "clients need no port then.",
    ),
    click.option(
        "--manage-gids",
        is_flag=True,
        help="Look up here in which groups a caller is, as rpc.mountd has it, in place of what the "
        "client says, which is 16 at most. For servers that run as root.",
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
ABOUT_USERS: list[Decorator] = [
    click.option(
        "--certuser",
        is_flag=True,
        help="Do a client's calls as the user in its certificate, if there is one.",
    ),
    click.option("--domain", help="The domain of those users, in place of this host's."),
]
ABOUT_STATE: list[Decorator] = [
    click.option(
        "--state",
        "state_dir",
        type=DIRECTORY,
        help="Directory for what must outlive the server: the key of file handles.  "
        "[default: /var/lib/umktls for root, else ~/.local/state/umktls]",
    ),
]


serve_options = with_options(
    [
        *ABOUT_THE_NETWORK,
        *ABOUT_WHAT_IS_SERVED,
        *ABOUT_TLS,
        *ABOUT_USERS,
        *ABOUT_THE_HOST,
        *ABOUT_STATE,
    ]
)
"""Adds all of them to a command, which gets them by the names of `ServeOptions`."""
