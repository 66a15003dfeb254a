"""Control messages, as they stand in the buffer beside a message (cmsg(3), LP64).

Both kernels put the data 16 bytes behind the start of the header and the next header at a multiple
of 8. They differ in the width of ``cmsg_len``, and in what is left of a buffer behind the last
message: Linux stops where no header fits any more, FreeBSD takes it for a mistake.
"""

from __future__ import annotations

import struct

from umktls.dataclass import dataclass
from umktls.errors import CallerError

DATA_OFFSET = 16
ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One ``struct cmsghdr`` with its data."""

    level: int
    type: int
    data: bytes


def cmsg_len(length: int) -> int:
    """``CMSG_LEN``: header and `length` bytes of data."""
    return DATA_OFFSET + length


def cmsg_space(length: int) -> int:
    """``CMSG_SPACE``: the same with the padding in front of the next message."""
    return DATA_OFFSET + (length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@dataclass(frozen=True, slots=True)
class CmsgLayout:
    """One kernel's ``struct cmsghdr``: length, level and type."""

    header: struct.Struct
    ragged_end: bool

    def pack(self, level: int, type_: int, data: bytes) -> bytes:
        """One control message as it stands in a control buffer, CMSG_SPACE(len(data)) bytes."""
        header = self.header.pack(cmsg_len(len(data)), level, type_)
        message = header.ljust(DATA_OFFSET, b"\0") + data
        return message.ljust(cmsg_space(len(data)), b"\0")

    def parse_untrusted(self, control: bytes) -> list[ControlMessage]:
        """All messages of a control buffer. The last one's padding may be missing.

        Raises:
            CallerError: EINVAL, a length that does not fit its buffer.
        """
        messages = []
        offset = 0
        while offset < len(control):
            if len(control) - offset < self.header.size:
                if self.ragged_end:
                    break
                raise CallerError(f"control buffer ends inside a cmsghdr at byte {offset}")
            length, level, type_ = self.header.unpack_from(control, offset)
            if not DATA_OFFSET <= length <= len(control) - offset:
                raise CallerError(f"cmsg_len {length} at byte {offset} does not fit its buffer")
            data = control[offset + DATA_OFFSET : offset + length]
            messages.append(ControlMessage(level, type_, bytes(data)))
            offset += cmsg_space(length - DATA_OFFSET)
        return messages


FREEBSD_CMSG = CmsgLayout(struct.Struct("<Iii"), ragged_end=False)
LINUX_CMSG = CmsgLayout(struct.Struct("<Qii"), ragged_end=True)
