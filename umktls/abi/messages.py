"""How sendmsg(2) and recvmsg(2) are spoken: the numbers of the flags, and the control messages.

One record of values per way of speaking. A flag that a kernel does not have is 0, so that it is
never set. `umktls` speaks FreeBSD's way, and knows Linux's MSG_MORE besides (with Linux's number,
which FreeBSD has not given to a program's flag).
"""

from __future__ import annotations

from dataclasses import replace

from umktls.abi import freebsd, linux
from umktls.abi.cmsg import FREEBSD_CMSG, LINUX_CMSG, CmsgLayout
from umktls.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class MessageAbi:
    """Flags by number; (level, type) of the control messages that say a record's type.

    get_record_size: how many bytes the kernel's message has: struct tls_get_record, or its first
    field, the type, alone."""

    layout: CmsgLayout
    set_record_type: tuple[int, int]
    get_record_type: tuple[int, int]
    peek: int
    waitall: int
    dontwait: int
    nosignal: int
    eor: int
    ctrunc: int
    more: int = 0
    errqueue: int = 0
    tls_app_data: int = 0
    get_record_size: int = freebsd.TlsGetRecord.SIZE


FREEBSD_MESSAGES = MessageAbi(
    layout=FREEBSD_CMSG,
    set_record_type=(freebsd.IPPROTO_TCP, freebsd.TLS_SET_RECORD_TYPE),
    get_record_type=(freebsd.IPPROTO_TCP, freebsd.TLS_GET_RECORD),
    peek=freebsd.MSG_PEEK,
    waitall=freebsd.MSG_WAITALL,
    dontwait=freebsd.MSG_DONTWAIT,
    nosignal=freebsd.MSG_NOSIGNAL,
    eor=freebsd.MSG_EOR,
    ctrunc=freebsd.MSG_CTRUNC,
    tls_app_data=freebsd.MSG_TLSAPPDATA,
)
LINUX_MESSAGES = MessageAbi(
    layout=LINUX_CMSG,
    set_record_type=(linux.SOL_TLS, linux.TLS_SET_RECORD_TYPE),
    get_record_type=(linux.SOL_TLS, linux.TLS_GET_RECORD_TYPE),
    peek=linux.MSG_PEEK,
    waitall=linux.MSG_WAITALL,
    dontwait=linux.MSG_DONTWAIT,
    nosignal=linux.MSG_NOSIGNAL,
    eor=linux.MSG_EOR,
    ctrunc=linux.MSG_CTRUNC,
    more=linux.MSG_MORE,
    errqueue=linux.MSG_ERRQUEUE,
    get_record_size=1,
)
UMKTLS_MESSAGES = replace(FREEBSD_MESSAGES, more=linux.MSG_MORE)
