"""FreeBSD's rpctls: the upcall programs, their flags and errors, the system call's operations.

Names and values of sys/rpc/rpcsec_tls.h, rpctlscd.x, rpctlssd.x and sys/kern/syscalls.master.
What is ours and not FreeBSD's stands at the end and carries our name.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

# The upcall programs.
RPCTLSCD = 0x40677374
RPCTLSSD = 0x40677375
RPCTLSCDVERS = 1
RPCTLSSDVERS = 1
# FreeBSD 15's.
RPCTLSCDVERS2 = 2
RPCTLSSDVERS2 = 2

RPCTLSCD_NULL = RPCTLSSD_NULL = 0
RPCTLSCD_CONNECT = RPCTLSSD_CONNECT = 1
RPCTLSCD_HANDLERECORD = RPCTLSSD_HANDLERECORD = 2
RPCTLSCD_DISCONNECT = RPCTLSSD_DISCONNECT = 3

# The longest tlscertname=, in bytes: the file with the key has "key.pem" behind it, and a file's
# name has NAME_MAX bytes at most.
CERTNAME_MAX = 255 - 7


class RpctlsErr(IntEnum):
    """``reterr`` of an upcall's result."""

    RPCTLSERR_OK = 0
    RPCTLSERR_NOCLOSE = 1
    RPCTLSERR_NOSSL = 2
    RPCTLSERR_NOSOCKET = 3


RPCTLSERR_OK = RpctlsErr.RPCTLSERR_OK
RPCTLSERR_NOCLOSE = RpctlsErr.RPCTLSERR_NOCLOSE
RPCTLSERR_NOSSL = RpctlsErr.RPCTLSERR_NOSSL
RPCTLSERR_NOSOCKET = RpctlsErr.RPCTLSERR_NOSOCKET


class RpctlsFlags(IntFlag):
    """``flags`` of RPCTLSSD_CONNECT's result, and what the kernel keeps in ``xp_tls``."""

    RPCTLS_FLAGS_HANDSHAKE = 0x01
    RPCTLS_FLAGS_GOTCERT = 0x02
    RPCTLS_FLAGS_SELFSIGNED = 0x04
    RPCTLS_FLAGS_VERIFIED = 0x08
    RPCTLS_FLAGS_DISABLED = 0x10
    RPCTLS_FLAGS_CERTUSER = 0x20
    RPCTLS_FLAGS_HANDSHFAIL = 0x40


RPCTLS_FLAGS_HANDSHAKE = RpctlsFlags.RPCTLS_FLAGS_HANDSHAKE
RPCTLS_FLAGS_GOTCERT = RpctlsFlags.RPCTLS_FLAGS_GOTCERT
RPCTLS_FLAGS_SELFSIGNED = RpctlsFlags.RPCTLS_FLAGS_SELFSIGNED
RPCTLS_FLAGS_VERIFIED = RpctlsFlags.RPCTLS_FLAGS_VERIFIED
RPCTLS_FLAGS_DISABLED = RpctlsFlags.RPCTLS_FLAGS_DISABLED
RPCTLS_FLAGS_CERTUSER = RpctlsFlags.RPCTLS_FLAGS_CERTUSER
RPCTLS_FLAGS_HANDSHFAIL = RpctlsFlags.RPCTLS_FLAGS_HANDSHFAIL

RPCTLS_REFNO_HANDSHAKE = 0xFFFFFFFFFFFFFFFF
RPCTLS_SRV_MAXNPROCS = 16


class RpctlsSysc(IntEnum):
    """``op`` of rpctls_syscall(2) in FreeBSD 13 and 14."""

    RPCTLS_SYSC_CLSETPATH = 1
    RPCTLS_SYSC_CLSOCKET = 2
    RPCTLS_SYSC_CLSHUTDOWN = 3
    RPCTLS_SYSC_SRVSETPATH = 4
    RPCTLS_SYSC_SRVSOCKET = 5
    RPCTLS_SYSC_SRVSHUTDOWN = 6
    RPCTLS_SYSC_SRVSTARTUP = 7


RPCTLS_SYSC_CLSETPATH = RpctlsSysc.RPCTLS_SYSC_CLSETPATH
RPCTLS_SYSC_CLSOCKET = RpctlsSysc.RPCTLS_SYSC_CLSOCKET
RPCTLS_SYSC_CLSHUTDOWN = RpctlsSysc.RPCTLS_SYSC_CLSHUTDOWN
RPCTLS_SYSC_SRVSETPATH = RpctlsSysc.RPCTLS_SYSC_SRVSETPATH
RPCTLS_SYSC_SRVSOCKET = RpctlsSysc.RPCTLS_SYSC_SRVSOCKET
RPCTLS_SYSC_SRVSHUTDOWN = RpctlsSysc.RPCTLS_SYSC_SRVSHUTDOWN
RPCTLS_SYSC_SRVSTARTUP = RpctlsSysc.RPCTLS_SYSC_SRVSTARTUP

# Deadlines in seconds. An upcall is not idempotent: it is tried once.
UPCALL_TIMEOUT = 15.0
UPCALL_RETRIES = 1
PROBE_TIMEOUT = 30.0
RPC_MAXDATASIZE = 9000
# What a daemon of version 2 is given at once. More are no faster: the daemon's work is computing.
DEFAULT_CONNECTS = 32
# An idle connection ends after so many seconds: xp_idletimeout in FreeBSD's svc_vc.c,
# svc_conn_age_period in Linux's svc_xprt.c.
DEFAULT_IDLE_SECONDS = 360.0

# System call numbers.
SYS_close = 6
SYS_recvmsg = 27
SYS_sendmsg = 28
SYS_socket = 97
SYS_setsockopt = 105
SYS_getsockopt = 118
SYS_shutdown = 134
SYS_utrace = 335
SYS_rpctls_syscall = 576
SYS_umktls_adopt = 1001  # ours: a descriptor of a session whose daemon has gone

# Ours: what FreeBSD's upcall cannot say, asked by getsockopt on the socket that was taken.
SOL_UMKTLS = 0x756D6B74
UMKTLS_PEERNAME = 1  # the server name that the user typed, UTF-8
UMKTLS_XPRTSEC = 2  # b"tls", b"mtls" or b"anonymous": what the mount or the export asks for
# u32, milliseconds left for this upcall; where the kernel captures, and there is room, a second u32
# behind it: what UMKTLS_CAPTURE says, so that nobody has to ask for that too
UMKTLS_DEADLINE = 3
UMKTLS_LEFTOVER = 4  # set: bytes that a TLS library had read too far
UMKTLS_CONNECTION = 5  # what the trace calls this connection, such as b"c7"
UMKTLS_PEERCERT = 16  # set: what the peer's verified certificate says (umktls.rpc.certificate)
# get: what to do with a direction that kernel TLS does not take (the ENABLE option failed, or the
# mode stayed NONE): b"refuse" the connection, b"bounce" the data, or go on in b"clear"
UMKTLS_TX_FALLBACK = 6
UMKTLS_RX_FALLBACK = 7
# get: one end of a new stream socket pair. The value is empty: its real descriptor comes beside
# the answer (SCM_RIGHTS). From the TX end the daemon reads what RPC sends, and seals and writes it
# to the connection. To the RX end it writes what it has opened. The end of stream is passed on in
# both. EPERM: the fallback is not b"bounce". EALREADY: the direction has its keys, or its pair.
UMKTLS_TX_BOUNCE = 8
UMKTLS_RX_BOUNCE = 9
UMKTLS_PEERADDR = 10  # get: b"ADDRESS PORT" of the peer, where the descriptor cannot tell
UMKTLS_ALERT = 11  # get: u32, the fatal alert that is to be said at DISCONNECT; 0, a close_notify
# What a successor needs (umktls.upcall.deposit). set and get: the deposit, bytes that the kernel
# does not look into. get: how far its keys are. set: the adopted session's new name.
UMKTLS_SESSION = 17
UMKTLS_KEYS = 18
UMKTLS_ADOPTED = 19
# For captures (umktls.upcall.captured). get: u32, what the kernel wants to be told, 0 where nobody
# captures. set: bytes that were read or written, or lines of the key log.
UMKTLS_CAPTURE = 12
UMKTLS_CAPTURED = 20
# Of a netlink socket (version 2 of the upcall). set: the calls of umktls_together that the daemon
# makes first of all behind the one that takes a CONNECT's socket. From then on the kernel makes
# them itself, and CONNECT brings the socket and the replies (UMKTLS_REQUEST_REPLIES).
UMKTLS_FIRST_CALLS = 21

# Ours: rpctls_syscall(2) of FreeBSD 15, which takes the cookie of a socket and nothing else. There
# its number is 576 too; here a host can have both, so this one has another.
SYS_rpctls_syscall_15 = 1002
# In a daemon's environment: the descriptor of a pipe in which there will be a byte when its host is
# there. At its end there will be none.
HOST_PIPE = "UMKTLS_HOST_PIPE"
SYS_umktls_together = 1003  # ours: several system calls with one datagram each way

# Ours: the kernel asks the daemon to renew a session's keys by KeyUpdate.
RPCTLSCD_REKEY = RPCTLSSD_REKEY = 4
