"""An interpreter for what seccomp takes of BPF (seccomp(2)), to try filters without a kernel."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["verdict"]

AUDIT_ARCH_X86_64 = 0xC000003E


def verdict(
    program: bytes, number: int, arguments: Sequence[int] = (), arch: int = AUDIT_ARCH_X86_64
) -> int:
    """What the filter returns for a system call."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, arch, 0, *(word % 2**64 for word in words))
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    loaded = at = 0
    while True:
        operation, if_so, if_not, value = code[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
        elif operation == 0x05:
            at += value
        else:
            holds = {
                0x15: loaded == value,
                0x35: loaded >= value,
                0x45: bool(loaded & value),
            }[operation]
            at += if_so if holds else if_not
