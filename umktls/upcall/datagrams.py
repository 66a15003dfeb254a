"""The daemon's system calls as messages: one datagram per call and per reply, in XDR.

The socket is ``syscall.sock`` in the host's run directory, AF_UNIX and SOCK_SEQPACKET. A request is
``sequence, number, arguments``, a reply ``sequence, errno, result``; the result is there only if
errno is 0. Replies may come in another order than the requests; the sequence tells whose they are.
errno has the numbering of the host's personality. Where a result is a new descriptor of an
existing socket, the real one comes beside the reply as SCM_RIGHTS; the number in the reply is its
name in all later calls.
"""

from __future__ import annotations

import struct
from dataclasses import field
from typing import Any

from umktls.rpc.frozen import frozen, maker
from umktls.rpc.xdr import VOID, Buffer, Struct, XdrError
from umktls.upcall.syscalls import SYSCALLS, number_of

__all__ = [
    "Reply",
    "Request",
    "decode_reply_untrusted",
    "decode_request_untrusted",
    "decode_result_untrusted",
    "encode_reply",
    "encode_request",
]

# The two numbers that every datagram begins with.
_HEAD = struct.Struct(">II")
HEAD_SIZE = _HEAD.size
_split_head = _HEAD.unpack_from


@frozen
class Request:
    """A call. `args` is None where there is no system call of this number: ENOSYS."""

    sequence: int
    number: int
    args: Struct | None


@frozen
class Reply:
    """An answer. `result` is None if errno is not 0, and where the call has no result."""

    sequence: int
    errno: int
    result: Any = field(repr=False)


_request = maker(Request)
_reply = maker(Reply)


def encode_request(sequence: int, args: Struct) -> bytes:
    """The datagram of a call; `CallerError` for arguments that the wire cannot hold."""
    pieces: list[Buffer] = [_HEAD.pack(sequence, number_of(args))]
    args.xdr.write(pieces.append, args)
    return b"".join(pieces)


def decode_request_untrusted(data: Buffer) -> Request:
    """A daemon's datagram; raises `XdrError` only."""
    if len(data) < HEAD_SIZE:
        raise _too_short(data)
    sequence, number = _split_head(data)
    call = SYSCALLS.get(number)
    if call is None:
        return _request(sequence, number, None)
    args, end = call.arguments.xdr.read(memoryview(data), HEAD_SIZE)
    if end != len(data):
        raise _too_long(data, end)
    return _request(sequence, number, args)


def encode_reply(sequence: int, errno: int, result: Any, number: int) -> bytes:
    """The datagram of an answer to a call of `number`; the result is left out if errno is not 0."""
    head = _HEAD.pack(sequence, errno)
    if errno:
        return head
    codec = SYSCALLS[number].result
    if codec is VOID:
        return head
    pieces: list[Buffer] = [head]
    codec.write(pieces.append, result)
    return b"".join(pieces)


def decode_reply_untrusted(data: Buffer, number: int) -> Reply:
    """The kernel's answer to a call of `number`; raises `XdrError` only."""
    return _reply(int.from_bytes(data[:4], "big"), *decode_result_untrusted(data, number))


def decode_result_untrusted(data: Buffer, number: int) -> tuple[int, Any]:
    """The same without the sequence: errno and result."""
    if len(data) < HEAD_SIZE:
        raise _too_short(data)
    _, errno = _split_head(data)
    result, end = None, HEAD_SIZE
    if not errno:
        result, end = SYSCALLS[number].result.read(memoryview(data), HEAD_SIZE)
    if end != len(data):
        raise _too_long(data, end)
    return errno, result


def _too_short(data: Buffer) -> XdrError:
    return XdrError(f"a system call of {len(data)} bytes")


def _too_long(data: Buffer, end: int) -> XdrError:
    return XdrError(f"{len(data) - end} bytes too many behind a system call")
