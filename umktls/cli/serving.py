"""What servers say to whoever has started them, and the exports that they take."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umktls.abi.ports import NFS_PORT
from umktls.certs import layout
from umktls.cli.engines import warn
from umktls.cli.serve_options import ServeOptions
from umktls.cli.serve_ready import bracketed, mount_lines
from umktls.printable import printable
from umktls.standard import drop

# What a server needs is imported where it is used: wrong usage is told at once, and help is too.
if TYPE_CHECKING:
    from umktls.kernel.krpc.server import Listening, ServerConfig
    from umktls.nfsd.exports.exports import Export
    from umktls.nfsd.program.server import NfsServer

__all__ = [
    "EXPIRE_SECONDS",
    "LEVELS",
    "complain",
    "complain_about",
    "default_state",
    "reachable",
    "ready_line",
    "ready_lines",
    "take_exports",
    "tell",
]

EXPIRE_SECONDS = 2.0
LEVELS = {
    "none": "TLS is offered, clear text is accepted too",
    "tls": "TLS is required",
    "mtls": "TLS with a client certificate is required",
    "certuser": "TLS with a user's certificate is required",
}
# Whose calls are not done as who they say they are.
SQUASHED = {
    "none": "root of a client is root here",
    "root": "root of a client is {whom} here",
    "all": "everybody is {whom} here",
}


def complain(*texts: str) -> None:
    """A line on stderr, for whoever started the server."""
    for text in texts:
        tell(f"umktls: {text}", err=True)


def tell(text: str, *, err: bool = False) -> None:
    """A line for whoever started the server. That may have gone: the server serves on."""
    try:
        click.echo(printable(text) if err else text, err=err)
    except OSError:
        drop(2 if err else 1)


def complain_about(exports: Sequence[Export]) -> None:
    """What the exports do that whoever wrote them may not have meant."""
    from umktls.nfsd.exports.engines import engine_conflicts, engines_asked_for
    from umktls.nfsd.exports.exports import overlaps

    complain(*overlaps(exports), *engine_conflicts(exports))
    for choice in engines_asked_for(exports):
        warn(choice)


def default_state() -> Path:
    """Where a server keeps what must outlive it (XDG base directories; root's is the system's)."""
    if os.geteuid() == 0:
        return Path("/var/lib/umktls")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "umktls"


async def take_exports(
    options: ServeOptions, server: Listening, nfsd: NfsServer, exports: Sequence[Export]
) -> ServerConfig:
    """Serve these from now on; the host as it would be made for them. Raises `UmktlsError` and
    OSError, and then everything stays as it was."""
    wanted = options.config(exports)
    nfsd.prepare_exports(exports)
    if await server.host.children.replace(wanted.daemon()):
        server.host.renew_sessions("users in certificates count from now on, or no more")
    nfsd.replace_exports(exports)
    server.security, server.engine_for = wanted.security, wanted.engine_for
    server.host.config.facts.update(wanted.facts)
    server.host.trace.emit("exports", what=", ".join(wanted.facts["exports"]))
    return wanted


async def reachable(config: ServerConfig) -> str:
    """The name by which clients may mount; complains if they would not take it for the server's."""
    from umktls.cli.reachable import reachable_name
    from umktls.kernel.ground.refusals import in_thread

    certificate = None
    if config.offer_tls and config.certs is not None:
        certificate = layout.find(config.certs, "server").certificate
    # In a thread: names are looked up.
    name, warning = await in_thread(reachable_name, config.hosts, certificate)
    if warning is not None:
        complain(warning)
    return name


def ready_lines(
    options: ServeOptions,
    config: ServerConfig,
    exports: Sequence[Export],
    ports: tuple[int, int],
    name: str,
) -> str:
    """What is printed when clients may come. ports: of NFS and of MOUNT. name: by which they may
    mount. Where MOUNT asks for TLS, the clients of kernels cannot."""
    lines = [ready_line(config, tuple(exports), ports[0], name)]
    if not (options.mount_tls and exports[0].level):
        lines += mount_lines(config, exports, None if options.rpcbind else ports, name)
    return "\n".join(lines)


def ready_line(
    config: ServerConfig, exports: tuple[Export, ...], port: int, name: str | None = None
) -> str:
    """The first of them. `name`: by which they may mount."""
    from umktls.nfsd.exports.exports import least_security

    host = bracketed(name or config.hosts[0])
    where = host if port == NFS_PORT else f"{host}:{port}"
    what = f"umktls mount {shlex.quote(f'{where}:{exports[0].name}')} MOUNTPOINT"
    others = "".join(f", {export.name}" for export in exports[1:])
    also = f"; {acting(exports)}"
    also += f"; also exported: {others[2:]}" if others else ""
    if not config.offer_tls:
        return f"ready: {what} -o notls   (no TLS: everything goes in clear{also})"
    certs = f" --certs {shlex.quote(str(config.certs))}" if config.certs else ""
    options = " -o mtls" if exports[0].wants_certificate or config.security == "mtls" else ""
    return f"ready: {what}{certs}{options}   ({LEVELS[least_security(exports)]}{also})"


def acting(exports: Sequence[Export]) -> str:
    """As which users calls are done, in words."""
    if os.geteuid() != 0:
        return f"every call is done as the user who serves, number {os.geteuid()}"
    said = {
        export.name: SQUASHED[export.squash].format(whom=whom(export.anonymous[0]))
        for export in exports
    }
    if len(set(said.values())) == 1:
        return said[exports[0].name]
    return ", ".join(f"{words} in {name}" for name, words in said.items())


def whom(number: int) -> str:
    from umktls.nfsd.exports.exports import NOBODY_ID

    return "nobody" if number == NOBODY_ID else f"user {number}"
