"""`umktls umount`: end a mount, and wait until its process has written everything and is gone."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path

import click

from umktls.cli.away import amount, server_words, waiting_words, work_words
from umktls.cli.control import Host, find_hosts, read_host
from umktls.cli.options import Seconds
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel.host import mountinfo
from umktls.kernel.host.rundir import run_base
from umktls.printable import printable

__all__ = ["force_unmount", "mounts", "umount", "unmount"]

FUSECTL = Path("/sys/fs/fuse/connections")
# When it is first said what is waited for, and how often after that.
SAY_SECONDS, SAY_AGAIN_SECONDS = 2.0, 10.0
# For a process that may be stuck to answer, and to do what it is told.
QUICK_SECONDS, FORCE_SECONDS = 1.0, 2.0
# So many processes are named.
SHOWN = 5
# <sys/mount.h>
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8


@click.command()
# No click.Path: it looks at what is there, and a mount whose server is away does not answer.
@click.argument("mountpoint", type=Path)
@click.option("-l", "--lazy", is_flag=True, help="Detach now, even if something still uses it.")
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="End all requests and the mount at once; what was not written yet may be lost.",
)
@click.option(
    "--timeout",
    type=Seconds(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the mount's process may take to write what is left.",
)
@click.option(
    "--rundir",
    type=click.Path(path_type=Path),
    help="Run directory of the mount, if it was given one.",
)
def umount(mountpoint: Path, lazy: bool, force: bool, timeout: float, rundir: Path | None) -> None:
    """End the mount at MOUNTPOINT.

    Returns when everything has been written to the server and the mount's process has ended, and
    says on stderr what it waits for; with -l it does not wait, and the process ends when nothing
    uses the mount any more. `fusermount3 -u MOUNTPOINT` ends it as well, and does not wait either.

    With -f whoever waits for the mount gets an error at once, the mount is gone, and its process is
    killed if it does not end within a few seconds, be the server away or the process stuck.

    \b
    Example:
      umktls umount /mnt
    """
    if force:
        force_unmount(mountpoint, rundir=rundir)
    else:
        unmount(mountpoint, lazy, timeout, rundir=rundir)


def unmount(
    mountpoint: Path,
    lazy: bool = False,
    timeout: float = 60.0,
    base: Path | None = None,
    rundir: Path | None = None,
) -> None:
    """What the command does; `base` is where its host may be, `rundir` is its run directory, if
    that is known. Raises CallerError, WorldError."""
    path = resolved(mountpoint)
    mount = topmost(path)
    host = mount_host(mount, base, rundir)
    with process_end(host) as ended:
        run_fusermount(path, lazy)
        if not lazy and host is None:
            say(
                f"{path} is unmounted; {not_found(base)}, so nobody has waited until all is written"
            )
        if not lazy and host is not None and not wait(host, mount, ended, timeout):
            raise WorldError(
                f"{path} is unmounted, but its process {host.pid} has not ended after "
                f"{timeout:g} s: {why_not(host, mount)}; it goes on, `umktls trace` shows what it "
                f"does, and `kill -KILL {host.pid}` ends it and loses that",
                errno.ETIMEDOUT,
            )


def wait(
    host: Host, mount: mountinfo.Mount, ended: Callable[[float], bool], timeout: float
) -> bool:
    """Wait for the end of the process; say soon, and now and then, what for and for how long."""
    start = time.monotonic()
    for pause in chain((SAY_SECONDS,), repeat(SAY_AGAIN_SECONDS)):
        left = timeout - (time.monotonic() - start)
        if ended(max(0.0, min(pause, left))):
            return True
        if left <= pause:
            return False
        left = timeout - (time.monotonic() - start)
        say(f"waiting for process {host.pid}, for {left:.0f} s at most: {why_not(host, mount)}")
    return False


def why_not(host: Host, mount: mountinfo.Mount) -> str:
    """What keeps a mount's process from ending: what it says itself, or who else has the mount."""
    try:
        state = host.answer({"op": "stat"}, QUICK_SECONDS)
    except UmktlsError as error:
        return f"what it does is not known ({error})"
    server, work = state.get("server") or {}, state.get("work") or {}
    away = server_words(server, time.time())
    words = [f"the server is {away}" if away else "", waiting_words(server), work_words(work)]
    return "; ".join(filter(None, words)) or kept_elsewhere(mount) or "it is about to end"


def kept_elsewhere(mount: mountinfo.Mount) -> str:
    """Who has a copy of the mount in another mount namespace (mount_namespaces(7)): containers,
    services and `unshare -m` get one of all that is mounted, and it keeps the file system."""
    found = list(mountinfo.holders(mount.device))
    if not found:
        return ""
    names = ", ".join(f"process {pid} ({process_name(pid)})" for pid in found[:SHOWN])
    return (
        f"it is still mounted in other mount namespaces, that of {names}: "
        f"`nsenter -t {found[0]} -m umount {mount.mountpoint}` takes it away there"
    )


def process_name(pid: int) -> str:
    try:
        return printable(Path(f"/proc/{pid}/comm").read_text().strip())
    except OSError:
        return "gone"


def say(text: str) -> None:
    click.echo(f"umktls umount: {text}", err=True)


def force_unmount(mountpoint: Path, base: Path | None = None, rundir: Path | None = None) -> None:
    """What the command does with -f. Raises CallerError, WorldError."""
    path = resolved(mountpoint)
    host = mount_host(topmost(path), base, rundir)
    with process_end(host) as ended:
        lost = unwritten(host)
        if not detached_by_force(path):
            abort(path)
            run_fusermount(path, lazy=True)
        if host is not None:
            end_process(host.pid, ended)
        else:
            say(f"{path} is unmounted; {not_found(base)}, so nobody has seen to it that it ends")
    if lost:
        say(f"{amount(lost)} of written data may be lost")


def unwritten(host: Host | None) -> int:
    """Bytes that the process says it has not written; 0 where it says nothing."""
    try:
        state = host.answer({"op": "stat"}, QUICK_SECONDS) if host else {}
    except UmktlsError:
        return 0
    return int((state.get("work") or {}).get("unwritten") or 0)


def detached_by_force(path: Path) -> bool:
    """umount2(2), which for FUSE ends all requests first (fs/fuse/inode.c, fuse_umount_begin);
    False where this user may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW
    return bool(libc.umount2(os.fsencode(path), flags) == 0)


def abort(path: Path) -> None:
    """Have the kernel end all requests of a mount, where fusectl is mounted (Linux's
    Documentation/filesystems/fuse.rst); else they end with the mount's process."""
    for mount in mountinfo.mounts():
        if Path(mount.mountpoint) == path and mount.kind == mountinfo.FSTYPE:
            number = mount.device.partition(":")[2]
            with suppress(OSError):
                (FUSECTL / number / "abort").write_text("1")


def end_process(pid: int, ended: Callable[[float], bool]) -> None:
    """Wait for the process, which ends when its mount is gone. If it does not, it gets SIGTERM
    twice, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if ended(FORCE_SECONDS):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    ended(FORCE_SECONDS)


def resolved(mountpoint: Path) -> Path:
    """The absolute path as the kernel lists it, found without touching what is mounted there."""
    path = Path(os.path.abspath(mountpoint))
    return Path(os.path.realpath(path.parent)) / path.name


def mounts() -> dict[Path, str]:
    """What is mounted where now: mount point -> type of the topmost file system."""
    return {Path(mount.mountpoint): mount.kind for mount in mountinfo.mounts()}


def topmost(path: Path) -> mountinfo.Mount:
    """The mount of ours that is seen at `path`. Raises CallerError if there is none."""
    found = [mount for mount in mountinfo.mounts() if Path(mount.mountpoint) == path]
    if not found:
        raise CallerError(f"nothing is mounted at {path}: `umktls stat` lists the mounts")
    if found[-1].kind != mountinfo.FSTYPE:
        raise CallerError(
            f"{path} is a mount of type {found[-1].kind}, not of umktls: see umount(8)"
        )
    return found[-1]


def mount_host(mount: mountinfo.Mount, base: Path | None, rundir: Path | None) -> Host | None:
    """The client host that serves the mount, if it is one of this user's. The mount point does not
    tell: others wait to mount there (`-o bg`), or have done so in another mount namespace.

    Raises CallerError where the host at `rundir` is not the one.
    """
    if rundir is not None:
        host = read_host(rundir)
        if host is None or not serves(host, mount):
            raise CallerError(f"the mount at {mount.mountpoint} has no run directory {rundir}")
        return host
    return next((host for host in find_hosts(base) if serves(host, mount)), None)


def serves(host: Host, mount: mountinfo.Mount) -> bool:
    facts = host.facts.get("mount")
    return isinstance(facts, dict) and facts.get("device") == mount.device


def not_found(base: Path | None) -> str:
    """What there is to say of a mount whose process is none of the hosts that can be found."""
    return (
        f"its process was not found in {base or run_base()} (--rundir says where it is, if the "
        "mount was given one; UMKTLS_RUNDIR=DIR looks in another place)"
    )


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
