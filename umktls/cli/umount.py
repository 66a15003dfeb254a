"""`umktls umount`: end a mount, and wait until its process has written everything and is gone."""

from __future__ import annotations

import errno
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from umktls.cli.control import Host, find_hosts
from umktls.errors import CallerError, WorldError
from umktls.kernel import mountinfo

__all__ = ["mounts", "umount", "unmount"]


@click.command()
# No click.Path: it looks at what is there, and a mount whose server is away does not answer.
@click.argument("mountpoint", type=Path)
@click.option("-l", "--lazy", is_flag=True, help="Detach now, even if something still uses it.")
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the mount's process may take to write what is left.",
)
def umount(mountpoint: Path, lazy: bool, timeout: float) -> None:
    """End the mount at MOUNTPOINT.

    Returns when everything has been written to the server and the mount's process has ended; with
    -l it does not wait, and the process ends when nothing uses the mount any more.
    `fusermount3 -u MOUNTPOINT` ends it as well, and does not wait either.

    \b
    Example:
      umktls umount /mnt
    """
    unmount(mountpoint, lazy, timeout)


def unmount(
    mountpoint: Path, lazy: bool = False, timeout: float = 60.0, base: Path | None = None
) -> None:
    """What the command does; `base` is where its host may be. Raises CallerError, WorldError."""
    path = resolved(mountpoint)
    require_ours(path)
    host = mount_host(path, base)
    with process_end(host) as ended:
        run_fusermount(path, lazy)
        if not lazy and not ended(timeout):
            raise WorldError(
                f"{path} is unmounted, but its process {host.pid if host else '?'} has not ended "
                f"after {timeout:g} s: it may still be writing; `umktls trace` shows what it does",
                errno.ETIMEDOUT,
            )


def resolved(mountpoint: Path) -> Path:
    """The absolute path as the kernel lists it, found without touching what is mounted there."""
    path = Path(os.path.abspath(mountpoint))
    return Path(os.path.realpath(path.parent)) / path.name


def mounts() -> dict[Path, str]:
    """What is mounted where now: mount point -> type of the topmost file system."""
    return {Path(mount.mountpoint): mount.kind for mount in mountinfo.mounts()}


def require_ours(path: Path) -> None:
    fstype = mounts().get(path)
    if fstype is None:
        raise CallerError(f"nothing is mounted at {path}: `umktls stat` lists the mounts")
    if fstype != mountinfo.FSTYPE:
        raise CallerError(f"{path} is a mount of type {fstype}, not of umktls: see umount(8)")


def mount_host(path: Path, base: Path | None) -> Host | None:
    """The client host that serves the mount point, if it is one of this user's."""
    for host in find_hosts(base):
        mount = host.facts.get("mount")
        if isinstance(mount, dict) and mount.get("mountpoint") == str(path):
            return host
    return None


@contextmanager
def process_end(host: Host | None) -> Iterator[Callable[[float], bool]]:
    """A function that waits for the end of the host's process: False if it takes too long.

    The process is opened before it is told to end, so that its number cannot be somebody else's
    by then. Without a host there is nothing to wait for.
    """
    try:
        descriptor = os.pidfd_open(host.pid) if host else None
    except ProcessLookupError:
        descriptor = None
    if descriptor is None:
        yield lambda timeout: True
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        yield lambda timeout: bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def run_fusermount(path: Path, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="surrogateescape", check=False
        )
    except FileNotFoundError as error:
        text = "fusermount3 is not there: install Debian's package fuse3"
        raise WorldError(text, errno.ENOENT) from error
    if done.returncode == 0:
        return
    if "busy" in done.stderr.lower():
        raise WorldError(
            f"{path} is in use: leave it (`fuser -vm {path}` lists who is there), "
            f"or detach it now with `umktls umount -l {path}`",
            errno.EBUSY,
        )
    raise WorldError(f"cannot unmount {path}: {done.stderr.strip() or done.returncode}")
