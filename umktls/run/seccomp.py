"""seccomp(2) with user notification: a filter from a table of rules, and the listener's end.

The filter sees a call's number and the registers. What it notifies waits until it is answered:
with a value, with an errno, or by going on as if nothing had been (`go_on`). Nothing of another
architecture than the machine's own is looked at.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from umktls.dataclass import dataclass
from umktls.run.system import NUMBERS

__all__ = ["Bits", "In", "Listener", "Notification", "Rule", "assemble"]

# linux/audit.h
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
# linux/filter.h, linux/bpf_common.h: load a word, jumps, return.
LOAD, JUMP, EQUAL, NOT_BELOW, ANY_BIT, RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
# linux/seccomp.h: offsets in struct seccomp_data, and what a filter returns.
NUMBER_OFFSET, ARCH_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
RET_ERRNO, RET_USER_NOTIF, RET_ALLOW = 0x00050000, 0x7FC00000, 0x7FFF0000
NOTIF_RECV, NOTIF_SEND, NOTIF_ID_VALID, NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
CONTINUE = 1
ADDFD_SETFD = 1
NOTIF_SET_FLAGS, SYNC_WAKE_UP = 0x40082104, 1

_INSTRUCTION = struct.Struct("<HBBI")
_NOTIF = struct.Struct("<QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE = struct.Struct("<QqiI")
_ADDFD = struct.Struct("<QIIII")


@dataclass(frozen=True, slots=True)
class In:
    """The argument (its low 32 bits) is one of these."""

    argument: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bits:
    """The argument has one of these bits."""

    argument: int
    mask: int


Clause = tuple[In | Bits, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one system call: it is notified, or fails with `refuse`, if all tests of one
    of the clauses hold; without clauses always."""

    call: str
    clauses: tuple[Clause, ...] = ()
    refuse: int = 0

    @property
    def verdict(self) -> int:
        return RET_ERRNO | self.refuse if self.refuse else RET_USER_NOTIF


def op(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_so, if_not, value)


def assemble(rules: Sequence[Rule], machine: str = platform.machine()) -> bytes:
    """The filter for these rules, as `struct sock_filter`s."""
    allow = op(RETURN, RET_ALLOW)
    code = op(LOAD, ARCH_OFFSET) + op(EQUAL, ARCHITECTURES[machine], 1) + allow
    code += op(LOAD, NUMBER_OFFSET) + op(NOT_BELOW, X32_BIT, 0, 1) + allow
    for rule in rules:
        block = _block(rule)
        # Over the block by JUMP, which can go further than a condition.
        code += op(EQUAL, NUMBERS[rule.call], 1) + op(JUMP, len(block) // 8) + block
    return code + allow


def _block(rule: Rule) -> bytes:
    verdict = op(RETURN, rule.verdict)
    if not rule.clauses:
        return verdict
    return b"".join(_clause(each) + verdict for each in rule.clauses) + op(RETURN, RET_ALLOW)


def _clause(clause: Clause) -> bytes:
    """Falls out at its end where all tests hold; else jumps over the verdict behind it."""
    code = b""
    for test in reversed(clause):
        over = op(JUMP, len(code) // 8 + 1)
        code = _test(test) + over + code
    return code


def _test(test: In | Bits) -> bytes:
    """Goes on behind the next instruction where it holds, else with that."""
    load = op(LOAD, ARGUMENTS_OFFSET + 8 * test.argument)
    if isinstance(test, Bits):
        return load + op(ANY_BIT, test.mask, 1)
    count = len(test.values)
    return load + b"".join(op(EQUAL, value, count - i) for i, value in enumerate(test.values))


class Notification(NamedTuple):
    """One system call that waits. `thread`: who makes it, as this process sees it."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


class Listener:
    """The supervisor's end of a filter."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def wake_at_once(self) -> None:
        """Have answers wake on this processor whoever waits for them, where the kernel can (6.6):
        two processes that take turns need no second one."""
        with suppress(OSError):
            fcntl.ioctl(self.descriptor, NOTIF_SET_FLAGS, SYNC_WAKE_UP)

    def receive(self) -> Notification | None:
        """The next call that waits. None: whoever made it was interrupted, or has gone."""
        data = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self.descriptor, NOTIF_RECV, data)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        fields = _NOTIF.unpack(data)
        return Notification(fields[0], fields[1], fields[3], fields[6:])

    def valid(self, id_: int) -> bool:
        """Whether the call still waits: what was read of its thread was its own."""
        return self._tell(NOTIF_ID_VALID, struct.pack("<Q", id_))

    def answer(self, id_: int, value: int = 0, error: int = 0) -> bool:
        """The call returns `value`, or fails with `error`. False: nobody waits any more."""
        return self._tell(NOTIF_SEND, _RESPONSE.pack(id_, value, -error, 0))

    def go_on(self, id_: int) -> bool:
        """The call is done as it is. Returns as `answer`."""
        return self._tell(NOTIF_SEND, _RESPONSE.pack(id_, 0, 0, CONTINUE))

    def put(self, id_: int, source: int, number: int, flags: int) -> None:
        """Have `number` be a copy of our descriptor `source` in the caller's process. Raises
        OSError."""
        data = _ADDFD.pack(id_, ADDFD_SETFD, source, number, flags)
        fcntl.ioctl(self.descriptor, NOTIF_ADDFD, data)

    def add(self, id_: int, source: int, flags: int) -> int:
        """Have a copy of our descriptor `source` in the caller's process, under the lowest number
        that is free there; that number. Raises OSError."""
        # A buffer that may change: the result is the call's, and Python returns it.
        data = bytearray(_ADDFD.pack(id_, 0, source, 0, flags))
        number: int = fcntl.ioctl(self.descriptor, NOTIF_ADDFD, data)
        return number

    def _tell(self, request: int, data: bytes) -> bool:
        try:
            fcntl.ioctl(self.descriptor, request, data)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise
        return True

    def close(self) -> None:
        os.close(self.descriptor)
