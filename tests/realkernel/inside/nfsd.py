"""knfsd with what it needs of user space: exports, and a mountd as small as can be.

The exports go to the kernel by its caches in /proc/net/rpc, as mountd(8) and exportfs(8) of
nfs-utils since 2.6.3 write them (Documentation/filesystems/nfs/exporting.rst, rpc-cache.rst). All
is written before it is asked for. MOUNT is answered in clear, to everybody, as mountd does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MOUNT", "MOUNT_PORT", "NFS", "NFS_PORT", "start", "stop"]

DOMAIN = "everybody"
NEVER = 2147483647
# linux/nfsd/export.h: NFSEXP_INSECURE_PORT, NFSEXP_ASYNC, NFSEXP_NOSUBTREECHECK, NFSEXP_FSID.
FLAGS = 0x2 | 0x10 | 0x400 | 0x2000
# And its NFSEXP_XPRTSEC_*.
LEVELS = {"none": 1, "tls": 2, "mtls": 4}
FSID_NUM = 1

PROC = Path("/proc/fs/nfsd")
NFS_PORT, MOUNT_PORT = 2049, 20048
NFS, MOUNT, PORTMAP = 100003, 100005, 100000
NULL, MNT = 0, 1
IPPROTO_TCP = 6
MOUNTED = struct.Struct(">I")


def start(exports: dict[str, list[str]], clients: Sequence[str], threads: int = 4) -> None:
    """Serve directories, each at these levels, to clients at these addresses. The first one is the
    root of NFS version 4."""
    if not PROC.is_dir():
        subprocess.run(["/run/modprobe", "nfsd"], check=True)
    if not (PROC / "threads").exists():
        subprocess.run(["mount", "-t", "nfsd", "nfsd", str(PROC)], check=True)
        rpcbind()
        threading.Thread(target=mountd, args=(listening(MOUNT_PORT),), daemon=True).start()
        register(MOUNT, 3, MOUNT_PORT)
    for client in clients:
        write("auth.unix.ip", f"nfsd {client} {NEVER} {DOMAIN}")
    for number, (path, levels) in enumerate(exports.items()):
        export(path, levels, number)
    if (PROC / "threads").read_text().strip() == "0":
        (PROC / "versions").write_text("+3 +4.1 +4.2\n")
        with listening(NFS_PORT) as listener:
            (PROC / "portlist").write_text(f"{listener.fileno()}\n")
        (PROC / "threads").write_text(f"{threads}\n")
        # Nobody has state to claim. (A kernel that has nowhere to keep it says EBUSY: it has no
        # grace period.)
        with contextlib.suppress(OSError):
            (PROC / "v4_end_grace").write_text("Y\n")


def stop() -> None:
    """The connections end, and the kernel forgets the exports."""
    (PROC / "threads").write_text("0\n")


def export(path: str, levels: Sequence[str], number: int) -> None:
    modes = " ".join(str(LEVELS[level]) for level in levels)
    security = f"xprtsec {len(levels)} {modes}"
    write("nfsd.export", f"{DOMAIN} {path} {NEVER} {FLAGS} 65534 65534 {number} {security}")
    key = number.to_bytes(4, "little").hex()
    write("nfsd.fh", f"{DOMAIN} {FSID_NUM} \\x{key} {NEVER} {path}")


def write(cache: str, line: str) -> None:
    """The kernel takes a line in one call of write(2)."""
    channel = os.open(f"/proc/net/rpc/{cache}/channel", os.O_WRONLY)
    try:
        os.write(channel, line.encode() + b"\n")
    finally:
        os.close(channel)


def listening(port: int) -> socket.socket:
    return socket.create_server(("0.0.0.0", port), backlog=64)


# ---- rpcbind


def rpcbind() -> None:
    """The kernel does not serve NFS v3 where it cannot be registered."""
    subprocess.run(["rpcbind", "-w"], check=True)


def register(program: int, version: int, port: int) -> None:
    """PMAPPROC_SET of RFC 1833."""
    with socket.create_connection(("127.0.0.1", 111), 20) as one:
        arguments = struct.pack(">4I", program, version, IPPROTO_TCP, port)
        call = struct.pack(">10I", 1, 0, 2, PORTMAP, 2, 1, 0, 0, 0, 0) + arguments
        one.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
        answer = message(one)
    if answer is None or answer[-4:] != MOUNTED.pack(1):
        raise OSError(f"rpcbind does not register program {program}: {answer!r}")


# ---- MOUNT version 3, RFC 1813 appendix I


def mountd(listener: socket.socket) -> None:
    while True:
        one, _ = listener.accept()
        threading.Thread(target=answer_all, args=(one,), daemon=True).start()


def answer_all(one: socket.socket) -> None:
    with one:
        while (call := message(one)) is not None:
            xid, procedure = struct.unpack_from(">I16xI", call)
            result = mnt(arguments(call)) if procedure == MNT else b""
            reply = struct.pack(">6I", xid, 1, 0, 0, 0, 0) + result
            one.sendall(struct.pack(">I", 0x80000000 | len(reply)) + reply)


def message(one: socket.socket) -> bytes | None:
    """One of a single fragment."""
    header = one.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return None
    return one.recv(int.from_bytes(header, "big") & 0x7FFFFFFF, socket.MSG_WAITALL)


def arguments(call: bytes) -> bytes:
    """What is behind the credential and the verifier."""
    rest = call[24:]
    for _ in range(2):
        (length,) = struct.unpack_from(">I", rest, 4)
        rest = rest[8 + (length + 3 & ~3) :]
    return rest


def mnt(rest: bytes) -> bytes:
    """mountres3, the handle as the kernel gives it (its flavors: AUTH_SYS)."""
    (length,) = struct.unpack_from(">I", rest)
    try:
        handle = root_of(rest[4 : 4 + length].decode())
    except OSError as error:
        return struct.pack(">I", error.errno or 5)
    padded = handle + b"\0" * (-len(handle) % 4)
    return struct.pack(">2I", 0, len(handle)) + padded + struct.pack(">2I", 1, 1)


def root_of(path: str) -> bytes:
    """The handle of an export's root, NFS3_FHSIZE at most."""
    files = os.open(PROC / "filehandle", os.O_RDWR)
    try:
        os.write(files, f"{DOMAIN} {path} 64\n".encode())
        return bytes.fromhex(os.read(files, 4096).decode().strip().removeprefix("\\x"))
    finally:
        os.close(files)
