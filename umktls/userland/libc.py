"""The daemon's system calls as Python calls.

    kernel = Kernel(Path("/run/umktls/client-123"))
    kernel.rpctls_syscall(RPCTLS_SYSC_CLSETPATH, b"/run/umktls/client-123/rpctlscd.sock")
    ...
    sock = kernel.rpctls_syscall(RPCTLS_SYSC_CLSOCKET)  # in the CONNECT upcall
    record = sock.read_record(sock.deadline())          # the real socket, until the keys are set
    sock.enable_tls("tx", session)                      # from here on the kernel makes the records
    sock.release()

Every failed call raises `SystemCallError` with this machine's errno, whatever kernel is emulated.
All objects may be used by any number of threads.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from umktls.abi.freebsd import from_freebsd
from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES, Personality
from umktls.abi.rpctls import RPCTLS_SYSC_CLSOCKET, RPCTLS_SYSC_SRVSOCKET
from umktls.errors import WorldError
from umktls.rpc.xdr import Struct, XdrError
from umktls.upcall.syscalls import (
    MAX_MESSAGE,
    MAX_UTRACE,
    SYSCALLS,
    CloseArgs,
    RpctlsSyscallArgs,
    UtraceArgs,
    decode_reply_untrusted,
    encode_request,
    number_of,
)
from umktls.userland.failures import KernelGone, SystemCallError
from umktls.userland.ktls import Record, interface_of
from umktls.userland.sockets import Socket

__all__ = ["Kernel", "KernelGone", "Record", "Socket", "SystemCallError", "personality_of"]

# How long a system call may take before the kernel counts as gone: none of them ever waits.
CALL_SECONDS = 10.0
_UCRED = struct.Struct("3i")

# The operations of rpctls_syscall that give a socket.
TAKING = (RPCTLS_SYSC_CLSOCKET, RPCTLS_SYSC_SRVSOCKET)


class Kernel:
    """A process's connection to the kernel of the host with run directory `rundir`.

    `ktls` is that kernel's interface to kernel TLS, as its host.json tells by the personality.

    Raises `KernelGone` when no kernel is there, also later and from every call.
    """

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self._lock = threading.Lock()
        self._sequence = count(1)
        personality = personality_of(rundir)
        self.ktls = interface_of(personality)
        self._freebsd_errnos = personality.errno_map == "freebsd"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(CALL_SECONDS)
        path = rundir / "syscall.sock"
        try:
            self._sock.connect(str(path))
            _check_owner(self._sock, path)
        except OSError as error:
            self._sock.close()
            raise KernelGone(
                f"no host at {rundir}: {error.strerror}; `umktls stat` lists those that run"
            ) from error
        except WorldError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """The system-call socket, for poll(2): POLLHUP says that the kernel is gone.

        Poll for no events: what arrives belongs to the calls.
        """
        return self._sock.fileno()

    def close(self) -> None:
        """The process's end, as the kernel sees it: all its descriptors are closed."""
        with self._lock:
            self._sock.close()

    def rpctls_syscall(self, op: int, path: bytes = b"") -> Socket | None:
        """rpctls_syscall(2): the socket for the operations CLSOCKET and SRVSOCKET, else None.

        `SystemCallError` EMFILE, and the socket is closed, where this process may have no more
        descriptors.
        """
        number, descriptors = self.call(RpctlsSyscallArgs(op, path))
        if op not in TAKING:
            return None
        if not descriptors:
            self.call(CloseArgs(number))
            raise SystemCallError("rpctls_syscall", errno.EMFILE)
        for extra in descriptors[1:]:
            os.close(extra)
        os.set_blocking(descriptors[0], False)
        return Socket(self, number, descriptors[0])

    def utrace(self, event: Mapping[str, Any]) -> None:
        """utrace(2): put `event` into the host's trace. Long texts are cut to fit."""
        data = json.dumps(event).encode()
        limit = MAX_UTRACE // 4
        while len(data) > MAX_UTRACE:
            data = json.dumps({key: _cut(value, limit) for key, value in event.items()}).encode()
            limit //= 2
        self.call(UtraceArgs(data))

    def call(self, args: Struct) -> tuple[Any, list[int]]:
        """Make the system call with these arguments; its result, and descriptors that came along.

        Raises `SystemCallError` with what the kernel answered.
        """
        sequence = next(self._sequence) & 0xFFFFFFFF
        number, request = number_of(args), encode_request(sequence, args)
        with self._lock:
            try:
                self._sock.send(request)
                data, descriptors = self._receive(sequence)
            except OSError as error:
                raise KernelGone(f"the kernel does not answer: {error}") from error
        try:
            reply = decode_reply_untrusted(data, number)
        except XdrError:
            _close_all(descriptors)
            raise
        if reply.errno:
            _close_all(descriptors)
            raise SystemCallError(SYSCALLS[number].name, self._host_errno(reply.errno))
        return reply.result, descriptors

    def _receive(self, sequence: int) -> tuple[bytes, list[int]]:
        """The reply to `sequence`. Answers to calls that were given up are dropped."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, 4)
            if not data:
                raise KernelGone("the kernel has closed the system-call socket")
            if int.from_bytes(data[:4], "big") == sequence:
                return data, list(descriptors)
            _close_all(descriptors)

    def _host_errno(self, number: int) -> int:
        return from_freebsd(number) if self._freebsd_errnos else number


def personality_of(rundir: Path) -> Personality:
    """Which kernel the host with that run directory emulates, as its host.json tells."""
    try:
        return PERSONALITIES[json.loads((rundir / "host.json").read_text())["personality"]]
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_PERSONALITY


def _check_owner(sock: socket.socket, path: Path) -> None:
    """The kernel must be ours or root's: it is going to be given keys."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid = _UCRED.unpack(credentials)[1]
    if uid not in (0, os.geteuid()):
        raise KernelGone(f"{path} belongs to user {uid}, not to this one")


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _cut(value: Any, limit: int) -> Any:
    return value[:limit] + "..." if isinstance(value, str) and len(value) > limit else value
