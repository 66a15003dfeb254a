"""An agent of Linux's handshake upcall: the netlink family `handshake` as Python calls.

    kernel = Kernel(Path("/run/umktls/client-123"))
    agent = HandshakeAgent(kernel)
    agent.join()
    while agent.wait():                         # READY
        task = agent.accept()                   # None: another agent was first
        if task is not None:
            ...                                 # a TLS handshake on task.sock, then
            task.set_keys({"tx": ..., "rx": ...})
            agent.done(task, 0, peer=1)         # and the socket is closed

It needs `Personality.handshake_family` of its host. Programs that were written for Linux have no
use for it: `umktls run --host` gives them netlink sockets.

One thread at a time may use an agent; tasks go to other threads, which say DONE by agents of their
own, or leave it to the first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from umktls.abi import handshake as linux
from umktls.abi import netlink as nl
from umktls.abi.handshake import AuthMode, MessageType
from umktls.abi.personality import PERSONALITIES
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, UnsupportedError
from umktls.ktls.session import Direction, Session
from umktls.upcall import genl
from umktls.upcall.handshake import ACCEPT, DONE, HANDSHAKE, READY
from umktls.upcall.netlink import MAX_DATAGRAM, Message, parse_family_untrusted
from umktls.upcall.syscalls import CloseArgs, SetsockoptArgs
from umktls.userland.failures import KernelGone, SystemCallError
from umktls.userland.ktls import LinuxKtls
from umktls.userland.libc import CALL_SECONDS, Kernel
from umktls.userland.sockets import Socket
from umktls.userland.streams import Deadline

__all__ = ["HandshakeAgent", "Task"]

GETFAMILY = genl.NLCTRL.named("GETFAMILY")


@dataclass(frozen=True, slots=True)
class Task:
    """A handshake that this process has accepted.

    server: which side to play. peername: the server's name for a client, "" if the kernel says
    none. x509: whether to show a certificate (a client), or to ask for one (a server). seconds:
    until when DONE is of use, None where the kernel does not say.
    """

    sock: Socket
    server: bool
    peername: str
    x509: bool
    seconds: float | None

    def deadline(self, otherwise: float) -> Deadline:
        """From now on; `otherwise`: seconds where the kernel does not say."""
        return Deadline.after(otherwise if self.seconds is None else self.seconds)

    def set_keys(self, sessions: Mapping[Direction, Session]) -> None:
        """TCP_ULP, then the keys of each direction. Raises `SystemCallError`."""
        for direction, session in sessions.items():
            LinuxKtls(PERSONALITIES["linux"]).enable(self.sock, direction, session)


class HandshakeAgent:
    """A netlink socket for the family. Raises `KernelGone`, and `UnsupportedError` where the host
    has no such family."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._seq = 0
        self._ready = 0
        self._descriptors: deque[int] = deque()
        self._number, self._sock = kernel.netlink_socket()
        try:
            self._group = self._resolve()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HandshakeAgent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """For poll(2): readable when READY has come."""
        return self._sock.fileno()

    def join(self) -> None:
        """Become a member of the group `tlshd`: from now on READY comes."""
        group = self._group.to_bytes(4, "little")
        self._kernel.call(
            SetsockoptArgs(self._number, nl.SOL_NETLINK, nl.NETLINK_ADD_MEMBERSHIP, group, ())
        )

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for READY; False when none came in time. Raises `KernelGone`."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._ready:
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                self._note(self._receive(left))
            except TimeoutError:
                return False
        self._ready -= 1
        return True

    def accept(self) -> Task | None:
        """ACCEPT: the oldest handshake that waits, None when there is none (any more).

        Raises `SystemCallError`: EPERM, EMFILE.
        """
        answer = self._ask(
            HANDSHAKE, ACCEPT, {"HANDLER_CLASS": linux.HANDSHAKE_HANDLER_CLASS_TLSHD}
        )
        try:
            told = genl.decode_untrusted(ACCEPT, self._good(answer, "ACCEPT"))
        except SystemCallError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        if "SOCKFD" not in told or not self._descriptors:
            raise KernelGone("the kernel's answer to ACCEPT has no socket")
        milliseconds, descriptor = told.get("TIMEOUT"), self._descriptors.popleft()
        os.set_blocking(descriptor, False)
        return Task(
            Socket(self._kernel, told["SOCKFD"], descriptor),
            told.get("MESSAGE_TYPE") == MessageType.SERVERHELLO,
            told.get("PEERNAME", ""),
            told.get("AUTH_MODE") == AuthMode.X509,
            None if milliseconds is None else milliseconds / 1000,
        )

    def done(self, task: Task, status: int, *, peer: int = 0) -> None:
        """DONE, and the socket is closed. `status` is an errno, 0 for a session; `peer` is not 0
        where the peer has shown a certificate that is good. Raises `SystemCallError`."""
        said: dict[str, Any] = {"STATUS": status, "SOCKFD": task.sock.number}
        if peer:
            said["REMOTE_AUTH"] = (peer,)
        try:
            self._good(self._ask(HANDSHAKE, DONE, said, nl.NLM_F_ACK), "DONE")
        finally:
            task.sock.close()

    def close(self) -> None:
        """Be no agent any more."""
        with contextlib.suppress(UmktlsError):
            self._kernel.call(CloseArgs(self._number))
        self._sock.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    # ---- messages

    def _resolve(self) -> int:
        """The number of the group. Raises `UnsupportedError`."""
        answer = self._ask(genl.NLCTRL, GETFAMILY, {"FAMILY_NAME": HANDSHAKE.name})
        try:
            family = parse_family_untrusted(self._good(answer, "CTRL_CMD_GETFAMILY"))
        except SystemCallError as error:
            raise UnsupportedError(
                "this host's kernel has no netlink family handshake: start it with the personality "
                "linux, linux6.12 or umktls"
            ) from error
        group = family.groups.get(linux.HANDSHAKE_GROUP)
        if family.number != HANDSHAKE.number or group is None:
            raise UnsupportedError(f"a family {family.name} that this library does not know")
        return group

    def _ask(
        self,
        family: genl.GenericFamily,
        command: genl.Command,
        values: Mapping[str, Any],
        flags: int = 0,
    ) -> Message:
        """One request, and the first answer to it."""
        self._seq += 1
        request = genl.encode(family, command, values, request=True, flags=flags, seq=self._seq)
        try:
            self._sock.send(request)
        except OSError as error:
            raise KernelGone(f"netlink: {error.strerror}") from error
        while True:
            try:
                message = self._receive(CALL_SECONDS)
            except TimeoutError as error:
                raise KernelGone("netlink: no answer from the kernel") from error
            if message.seq == self._seq:
                return message
            self._note(message)

    def _good(self, message: Message, name: str) -> Message:
        """The message, if it is no error. Raises `SystemCallError`."""
        if message.type == nl.NLMSG_ERROR:
            number = abs(genl.error_of_untrusted(message))  # FreeBSD's is positive there
            if number:
                raise SystemCallError(name, number)
        return message

    def _receive(self, seconds: float | None) -> Message:
        """The next message. Raises `KernelGone`, `TimeoutError`."""
        self._sock.settimeout(seconds)
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, MAX_DATAGRAM, 1)
        except BlockingIOError as error:
            raise TimeoutError from error
        except TimeoutError:
            raise
        except OSError as error:
            raise KernelGone(f"netlink: {error.strerror}") from error
        self._descriptors += descriptors
        messages = list(genl.messages_untrusted(data))
        if len(messages) != 1:
            raise KernelGone("the kernel has closed the netlink socket")
        return messages[0]

    def _note(self, message: Message) -> None:
        """A message that is no answer: READY, or one to a question of before."""
        payload = message.payload
        if message.type == HANDSHAKE.number and payload and payload[0] == READY.number:
            told = genl.decode_untrusted(READY, message)
            self._ready += told.get("HANDLER_CLASS") == linux.HANDSHAKE_HANDLER_CLASS_TLSHD
