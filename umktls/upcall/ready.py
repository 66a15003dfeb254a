"""What a session needs behind its handshake, made before it is needed.

The functions that encode and decode are compiled when they are first used. For the first KeyUpdate
of a daemon that would be in the middle of it, in both processes, while calls wait: several
milliseconds. So each makes its half when it has nothing else to do.
"""

from __future__ import annotations

from umktls.abi.rpctls import SYS_recvmsg, SYS_sendmsg
from umktls.rpc.frozen import maker
from umktls.rpc.xdr import Codec
from umktls.upcall.rpctls import rpctls_session_res
from umktls.upcall.syscalls import SYSCALLS, RecvmsgResult
from umktls.upcall.versions import VERSIONS

__all__ = ["ready_to_answer", "ready_to_call"]

CALLS = (SYS_recvmsg, SYS_sendmsg)
PROCEDURES = ("HANDLERECORD", "REKEY")


def ready_to_call(daemon: str) -> None:
    """The daemon's half: it makes system calls, and answers upcalls of version 2."""
    for call in (SYSCALLS[number] for number in CALLS):
        maker(call.arguments)
        compiled(call.arguments.xdr, writes=True)
        compiled(call.result, writes=False)
    for procedure in (VERSIONS[2].programs[daemon][name] for name in PROCEDURES):
        compiled(procedure.args, writes=False)
        compiled(procedure.result, writes=True)
    maker(rpctls_session_res)


def ready_to_answer(daemon: str) -> None:
    """The kernel's half, the other way round."""
    maker(RecvmsgResult)
    for call in (SYSCALLS[number] for number in CALLS):
        compiled(call.arguments.xdr, writes=False)
        compiled(call.result, writes=True)
    for procedure in (VERSIONS[2].programs[daemon][name] for name in PROCEDURES):
        compiled(procedure.args, writes=True)
        compiled(procedure.result, writes=False)


def compiled(codec: Codec[object], *, writes: bool) -> None:
    """Have that half of it now."""
    _ = codec.write if writes else codec.read
