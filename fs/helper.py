"""`mount.umktls`, which mount(8) calls for `mount -t umktls` and for fstab(5)'s type `umktls`."""

from __future__ import annotations

from typing import Any

import click

from umktls.standard import printing

from .command import MountCommand, WrongOptions, mount

__all__ = ["helper", "main"]


@click.command("mount.umktls", cls=MountCommand)
@click.argument("source", metavar="HOST[:PORT]:/EXPORT")
@click.argument("mountpoint")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Mount options; see below.")
@click.option("-s", "sloppy", is_flag=True, help="Bear with unknown mount options.")
@click.option("-f", "fake", is_flag=True, help="Only check options and mount point (mount -f).")
@click.option("-n", "-v", "_ignored", is_flag=True, hidden=True)
@click.option("-t", "kind", metavar="TYPE", hidden=True)
@click.option("-N", "namespace", metavar="NAMESPACE", hidden=True)
@click.pass_context
def helper(context: click.Context, /, fake: bool, namespace: str | None, **words: Any) -> None:
    """Mount as `umktls mount` does, called by mount(8), which looks for it in /sbin alone:
    `umktls doctor` has the line that puts it there.

    \b
    Examples:
      mount -t umktls server:/srv/data /mnt -o certs=/etc/umktls,mtls
      server:/srv/data  /mnt  umktls  certs=/etc/umktls,mtls,_netdev  0  0     (in fstab)
    """
    if namespace is not None:
        text = "-N: this helper mounts where it runs; use nsenter(1) to run mount(8) there"
        raise WrongOptions(text)
    del words["kind"]
    context.invoke(mount, fake=fake, **words)


def main() -> None:
    """The program."""
    with printing("mount.umktls"):
        helper(prog_name="mount.umktls")
