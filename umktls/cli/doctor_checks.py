"""What `umktls doctor` looks at: a table of checks, each a function without side effects."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from umktls.cli.system_packages import MOUNT_BUILD, command
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError
from umktls.kernel.host.commands import program_path
from umktls.kernel.host.rundir import RunDirectory, run_base
from umktls.kernel.sockets import hosttls

__all__ = ["CHECKS", "Check", "examined"]

OLDEST_PYTHON = (3, 11)
DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
# Connections are descriptors; fewer than these are noticed.
DESCRIPTORS = 4096
# Where mount(8) looks for programs, whatever PATH says.
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
HELPER = Path("/sbin/mount.umktls")
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """What was found: `state` is ok, lacks (it is needed) or could (for one purpose only); `mend`
    is what to type."""

    name: str
    state: Literal["ok", "lacks", "could"]
    text: str
    mend: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examined() -> list[Check]:
    """All checks, in the order of the table."""
    return [check(name) for name, check in CHECKS.items()]


def python(name: str) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Check(
            name,
            "lacks",
            f"{version}; {oldest} is the oldest",
            one_line(command(["python3", "python3-venv"])),
        )
    return Check(name, "ok", f"{version}, {sys.executable}")


def pyfuse3(name: str) -> Check:
    """Imported by another process: it belongs to mounts alone, and may be broken."""
    program = "import pyfuse3; print(pyfuse3.__version__)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "lacks", f"it cannot be tried: {error}")
    if done.returncode == 0:
        return Check(name, "ok", done.stdout.strip())
    reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    install = f"{sys.executable} -m pip install --force-reinstall pyfuse3"
    return Check(
        name,
        "lacks",
        f"no mounts without it: {reason}",
        f"{one_line(command(MOUNT_BUILD))} && {install}",
    )


def fusermount(name: str) -> Check:
    found = shutil.which("fusermount3")
    if found is None:
        return Check(name, "lacks", "mounts cannot be ended", one_line(command(["fuse3"])))
    if os.geteuid() != 0 and not os.stat(found).st_mode & 0o4000:
        return Check(
            name, "lacks", f"{found} is not setuid: only root can mount", f"chmod u+s {found}"
        )
    return Check(name, "ok", found)


def device(name: str) -> Check:
    """Opening it does nothing by itself."""
    if not DEVICE.exists():
        text = "no mounts without it (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
        return Check(name, "lacks", text, "modprobe fuse")
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        text = f"cannot be opened: {error.strerror}"
        if error.errno == errno.EPERM:
            text += " (the container forbids it: --device /dev/fuse)"
        return Check(name, "lacks", text, f"chmod 666 {DEVICE}")
    return Check(name, "ok", "can be opened")


def other_users(name: str) -> Check:
    """fuse(8): who is not root may let others in only if fuse.conf says so."""
    lines = FUSE_CONF.read_text().split() if FUSE_CONF.exists() else []
    if os.geteuid() == 0 or "user_allow_other" in lines:
        return Check(name, "ok", "mounts may have allow_other")
    return Check(
        name,
        "could",
        "for mounts that other users may use (-o allow_other)",
        f"echo user_allow_other >>{FUSE_CONF}",
    )


def daemons(name: str) -> Check:
    """Started as a host starts them, to say how they are used."""
    for program in ("rpctlscd", "rpctlssd"):
        try:
            subprocess.run(
                [program_path(program), "--help"],
                capture_output=True,
                timeout=SECONDS,
                check=True,
            )
        except (UmktlsError, OSError, subprocess.SubprocessError) as error:
            install = f"{sys.executable} -m pip install --force-reinstall umktls"
            return Check(name, "lacks", f"no TLS without {program}: {error}", install)
    return Check(name, "ok", "rpctlscd and rpctlssd start")


def run_directory(name: str) -> Check:
    """Whether a host could make its own; nothing is made."""
    base = run_base()
    there = next(path for path in (base, *base.parents) if path.exists())
    mend = "export UMKTLS_RUNDIR=$HOME/.umktls"
    try:
        RunDirectory("server")
    except UmktlsError as error:
        return Check(name, "lacks", str(error), mend)
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(name, "lacks", f"{base} cannot be made: {there} is not writable", mend)
    if there == base and base.stat().st_uid != os.geteuid():
        return Check(name, "lacks", f"{base} is somebody else's", mend)
    return Check(name, "ok", str(base))


def descriptors(name: str) -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS:
        return Check(name, "ok", f"{hard} at most (now {soft}; hosts raise it)")
    text = f"for servers with many clients: only {hard} connections and files at once"
    return Check(name, "could", text, f"ulimit -Hn {DESCRIPTORS * 16}")


def loopback(name: str) -> Check:
    try:
        addresses = {one[4][0] for one in socket.getaddrinfo("localhost", None)}
    except OSError as error:
        line = "echo 127.0.0.1 localhost >>/etc/hosts"
        return Check(name, "lacks", f"localhost has no address: {error}", line)
    return Check(name, "ok", f"localhost is {', '.join(sorted(map(str, addresses)))}")


def fstab(name: str) -> Check:
    found = next((path for path in places("umktls") if path.exists()), None)
    if found is not None:
        return Check(name, "ok", f"mount(8) finds {found}")
    try:
        line = f"ln -s {program_path('umktls')} /usr/local/bin/umktls"
    except UmktlsError as error:
        return Check(name, "could", f"for mount(8) and fstab(5): {error}")
    return Check(name, "could", "for mount(8) and fstab(5), which look for umktls there", line)


def mount_helper(name: str) -> Check:
    """mount(8) looks for its helpers in one place."""
    if HELPER.exists():
        return Check(name, "ok", f"mount(8) finds {HELPER}")
    try:
        line = f"ln -s {program_path(HELPER.name)} {HELPER}"
    except UmktlsError as error:
        return Check(name, "could", f"for `mount -t umktls`: {error}")
    return Check(name, "could", f"for `mount -t umktls`, which calls {HELPER}", line)


def places(program: str) -> Iterator[Path]:
    return (Path(directory) / program for directory in SYSTEM_PATH)


def kernel_tls(name: str) -> Check:
    problem = hosttls.problem()
    if problem is None:
        return Check(name, "ok", "the engine linux works here")
    return Check(name, "could", f"for the engine linux alone: {problem}", "modprobe tls")


def one_line(text: str) -> str:
    """Where the distribution is not known there is a line for each."""
    return "  |  ".join(" ".join(line.split()) for line in text.splitlines())


CHECKS: dict[str, Callable[[str], Check]] = {
    "python": python,
    "pyfuse3": pyfuse3,
    "fusermount3": fusermount,
    "/dev/fuse": device,
    "daemons": daemons,
    "run directory": run_directory,
    "localhost": loopback,
    "other users": other_users,
    "descriptors": descriptors,
    "fstab": fstab,
    "mount -t umktls": mount_helper,
    "kernel TLS": kernel_tls,
}
