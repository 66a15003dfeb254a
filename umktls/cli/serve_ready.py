"""What to type on other systems to mount what a server exports."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umktls.kernel.krpc.server import ServerConfig
    from umktls.nfsd.exports.exports import Export

__all__ = ["bracketed", "mount_lines"]

# By the level of an export, where TLS is offered: what a kernel's client is told (nfs(5) of Linux,
# mount_nfs(8) of FreeBSD, whose rpc.tlsclntd -m shows a certificate).
LINUX_TLS = ("xprtsec=tls", "xprtsec=tls", "xprtsec=mtls", "xprtsec=mtls")
FREEBSD_TLS = "tls"


def mount_lines(
    config: ServerConfig,
    exports: Sequence[Export],
    ports: tuple[int, int] | None,
    name: str | None = None,
) -> list[str]:
    """What to type on Linux and on FreeBSD to mount the first export.

    ports: of NFS and of MOUNT; None where rpcbind knows them. name: by which they may mount. There
    are no locks over the network, which both clients have to be told. FreeBSD's has no option for
    MOUNT's port.
    """
    export = exports[0]
    where = f"{bracketed(name or config.hosts[0])}:{export.name}"
    linux_tls = "xprtsec=mtls" if config.security == "mtls" else LINUX_TLS[export.level]
    tls = (linux_tls, FREEBSD_TLS) if config.offer_tls else ()
    said: list[str] = []
    if ports is not None:
        said = [f"port={ports[0]}", f"mountport={ports[1]}", "mountproto=tcp"]
    linux = ["vers=3", "proto=tcp", *said, *tls[:1], "nolock"]
    freebsd = ["nfsv3", "tcp", *said[:1], *tls[1:], "nolockd"]
    advice = "" if ports is None else "   (it asks rpcbind for MOUNT: serve with --rpcbind)"
    return [
        f"on Linux: {mount_command(linux, where)}",
        f"on FreeBSD: {mount_command(freebsd, where)}{advice}",
    ]


def mount_command(options: Sequence[str], where: str) -> str:
    return f"mount -t nfs -o {','.join(options)} {shlex.quote(where)} MOUNTPOINT"


def bracketed(name: str) -> str:
    """As it stands in front of a colon."""
    return f"[{name}]" if ":" in name else name
