"""What the emulated machine can be told to do: COMMANDS has each by its name.

Paths are the emulated machine's. Values are what JSON has.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import random
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.realkernel.inside import agent, nfsd

__all__ = ["COMMANDS"]

MNT_FORCE, MNT_DETACH = 1, 2
BLOCK = 1 << 20
FILES, LARGEST = 135, 200_000
MOST_BLOCKS = 1024
AGENT_SECONDS, LOOK_AGAIN_SECONDS = 30.0, 0.05

_libc = ctypes.CDLL(None, use_errno=True)
_agents: list[int] = []
_enough = threading.Event()


def run(command: list[str], seconds: float) -> dict[str, Any]:
    """A program; its exit code and what it says, on both of its outputs."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        code = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=seconds,
            check=False,
        ).returncode
        output.seek(0)
        return {"code": code, "said": output.read()}


def read(path: str) -> str:
    return Path(path).read_text(errors="replace")


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def files(path: str) -> list[str]:
    return sorted(os.listdir(path))


def kernel_log() -> list[str]:
    """The kernel's messages since it was last asked."""
    command = ["dmesg", "--read-clear", "--notime"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


# ---- mounts


def mount(source: str, at: str, options: str, kind: str = "nfs") -> None:
    """mount(2), with the options in the kernel's words. Raises OSError as that has it."""
    Path(at).mkdir(parents=True, exist_ok=True)
    words = (source.encode(), at.encode(), kind.encode(), 0, options.encode())
    if _libc.mount(*words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} [{number}]")


def unmount(at: str, flags: int = 0) -> None:
    if _libc.umount2(at.encode(), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} [{number}]")


def unmount_all(below: str = "/mnt/") -> list[str]:
    """What was mounted there and had to go, by force."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.split()[1].startswith(below)]
    for at in reversed(found):
        with contextlib.suppress(OSError):
            unmount(at, MNT_FORCE)
        with contextlib.suppress(OSError):
            unmount(at, MNT_DETACH)
    return found


# ---- files


def hashes(top: str) -> dict[str, str]:
    """SHA-256 of each file below a directory, by its path there."""
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            found[str(path.relative_to(top))] = digest(path)
    return found


def digest(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            whole.update(block)
    return whole.hexdigest()


def tree(top: str) -> dict[str, str]:
    """Make 135 files, of sizes from nothing on, some at the edges of blocks and records."""
    chance = random.Random(0)
    edges = [0, 1, 4095, 4096, 4097, 16383, 16384, 16385, LARGEST]
    for count in range(FILES):
        directory = Path(top, f"directory {count % 9}", "ö")
        directory.mkdir(parents=True, exist_ok=True)
        size = edges[count] if count < len(edges) else chance.randrange(LARGEST // 2)
        (directory / f"file-{count}").write_bytes(chance.randbytes(size))
    return hashes(top)


def copy(source: str, target: str) -> None:
    """A tree, in the place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def remove(path: str) -> None:
    shutil.rmtree(path)


def fill(path: str) -> str:
    """Write a file, each MiB synchronised, until somebody says `enough`; its SHA-256."""
    _enough.clear()
    whole = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:
        for count in range(MOST_BLOCKS):
            block = hashlib.sha256(str(count).encode()).digest() * (BLOCK // 32)
            whole.update(block)
            file.write(block)
            os.fsync(file.fileno())
            if _enough.is_set():
                return whole.hexdigest()
    raise OSError(f"{path}: {MOST_BLOCKS} MiB are written, and nobody has said that it is enough")


def enough() -> None:
    """Have `fill` end."""
    _enough.set()


def stat(path: str) -> dict[str, int]:
    found = os.stat(path)
    return {"mode": found.st_mode, "uid": found.st_uid, "size": found.st_size}


# ---- the server


def serve(exports: dict[str, list[str]], clients: list[str]) -> None:
    """knfsd with these directories, which are made where they are not there, on a tmpfs."""
    for path in exports:
        Path(path).mkdir(parents=True, exist_ok=True)
    nfsd.start(exports, clients)


def stop_serving() -> None:
    """As a machine that goes down; `serve` has it back."""
    nfsd.stop()


# ---- the handshake agent


def start_agent(program: str | None = None, **settings: Any) -> int:
    """In the place of the one before. PEM texts come as text, and are files from then on.

    program: this tlshd, and not the tests' own."""
    stop_agent()
    directory = tempfile.mkdtemp(prefix="agent-")
    for name, value in settings.items():
        if isinstance(value, str):
            path = Path(directory, name)
            path.write_text(value)
            settings[name] = str(path)
    pid = start_tlshd(program, settings) if program else start_own(agent.Settings(**settings))
    _agents.append(pid)
    return pid


def start_own(settings: agent.Settings) -> int:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            agent.serve(settings, lambda: os.write(writing, b"."))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if not pipe.read(1):
            raise OSError("the agent did not start")
    return pid


# tlshd.conf(5), and what agent.Settings has
TLSHD_KEYS = {"truststore": "ca", "certificate": "own", "private_key": "key", "crl": "crl"}


def start_tlshd(program: str, settings: dict[str, str]) -> int:
    """With the same settings as a client and as a server."""
    config = Path(tempfile.mkdtemp(prefix="tlshd-"), "config")
    keys = {name: settings[ours] for name, ours in TLSHD_KEYS.items() if settings.get(ours)}
    lines = "".join(f"x509.{name}={path}\n" for name, path in keys.items())
    sections = "".join(f"[authenticate.{role}]\n{lines}" for role in ("client", "server"))
    config.write_text(f"[debug]\nloglevel=1\n{sections}")
    pid = os.spawnv(os.P_NOWAIT, program, [program, "-s", "-c", str(config)])
    ends = time.monotonic() + AGENT_SECONDS
    process = os.pidfd_open(pid)  # readable when it has ended
    try:
        while not listens(pid):
            ended, _, _ = select.select([process], [], [], LOOK_AGAIN_SECONDS)
            if ended or time.monotonic() > ends:
                raise OSError(f"{program} did not start")
    finally:
        os.close(process)
    return pid


def listens(pid: int) -> bool:
    """Whether a process is in a group of generic netlink's. (libnl's numbers are the process's, and
    something in the bits above.)"""
    lines = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()[1:]]
    return any(
        int(kind) == agent.NETLINK_GENERIC and int(port) & 0x3FFFFF == pid and int(groups, 16)
        for _, kind, port, groups, *_ in lines
    )


def stop_agent() -> None:
    """By SIGKILL."""
    while _agents:
        pid = _agents.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


COMMANDS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(run, read, write, files, kernel_log),
        *(mount, unmount, unmount_all),
        *(tree, hashes, copy, remove, fill, enough, stat),
        *(serve, stop_serving, start_agent, stop_agent),
    )
}
