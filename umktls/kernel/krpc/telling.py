"""Calls and replies as events, for those who watch closely.

Whoever sends or gets one looks at `trace.close` first; nothing here is called while nobody watches.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import trio

from umktls.kernel.ground.asking import REQUEST
from umktls.kernel.ground.events import Trace
from umktls.nfs.program import MOUNT1, MOUNT3, NFS3
from umktls.rpc.message import AuthFlavor, Call
from umktls.rpc.xdr import Buffer

__all__ = ["procedure_name", "tell_answer", "tell_call", "tell_received", "tell_reply"]

PROGRAMS = {(program.number, program.version): program for program in (NFS3, MOUNT3, MOUNT1)}
# Mark, xid, CALL, RPC version, program, version, procedure (RFC 5531 sections 9, 11).
_HEAD = struct.Struct(">I6I")


def procedure_name(program: int, version: int, number: int) -> str:
    """`LOOKUP`; where the program is not known, its numbers."""
    known = PROGRAMS.get((program, version))
    if known is None or number not in known.procedures:
        return f"{program}.{version}.{number}"
    return known.procedures[number].name


def tell_call(
    trace: Trace,
    connection: str,
    name: str,
    parts: Sequence[Buffer],
    attempt: int,
    task: trio.lowlevel.Task,
) -> None:
    """A client sends a call that this task waits for; `parts` begin with the mark and the head in
    one."""
    if not trace.has_room():
        return
    _, xid, _, _, program, version, _ = _HEAD.unpack_from(parts[0])
    trace.tell(
        "call-sent",
        connection,
        procedure=name,
        program=program,
        version_number=version,
        xid=xid,
        bytes=sum(map(len, parts)),
        attempt=attempt,
        request=task.context.get(REQUEST, 0),
    )


def tell_answer(
    trace: Trace,
    connection: str,
    name: str,
    xid: int,
    length: int,
    seconds: float,
    task: trio.lowlevel.Task,
) -> None:
    """A client has the reply, of that many bytes, to a call that this task waits for, `seconds`
    after it was made."""
    if not trace.has_room():
        return
    trace.tell(
        "reply-received",
        connection,
        procedure=name,
        xid=xid,
        bytes=length,
        seconds=seconds,
        request=task.context.get(REQUEST, 0),
    )


def tell_received(trace: Trace, connection: str, call: Call, length: int) -> None:
    """A server has a whole call, of that many bytes."""
    if not trace.has_room():
        return
    name = procedure_name(call.program, call.version, call.procedure)
    if call.credential.flavor == AuthFlavor.AUTH_TLS:
        name = "NULL (AUTH_TLS)"
    trace.tell(
        "call-received",
        connection,
        procedure=name,
        program=call.program,
        version_number=call.version,
        xid=call.xid,
        bytes=length,
    )


def tell_reply(trace: Trace, connection: str, parts: Sequence[Buffer]) -> None:
    """A server answers; `parts` are without the mark."""
    if not trace.has_room():
        return
    (xid,) = struct.unpack_from(">I", parts[0])
    trace.tell("reply-sent", connection, xid=xid, bytes=sum(map(len, parts)))
