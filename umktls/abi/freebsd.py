"""FreeBSD's side of kernel TLS: socket options, structures, control messages, errno numbers.

Names and values are those of sys/netinet/tcp.h, sys/sys/ktls.h, sys/sys/socket.h,
sys/opencrypto/cryptodev.h and sys/sys/errno.h on an LP64 machine. Integers are little-endian, as on
every FreeBSD machine that has kernel TLS, unless a field says otherwise.
"""

from __future__ import annotations

import errno as _host_errno
import struct
from dataclasses import field
from typing import ClassVar

from umktls.abi.cmsg import FREEBSD_CMSG
from umktls.abi.cmsg import ControlMessage as ControlMessage
from umktls.abi.cmsg import cmsg_len as cmsg_len
from umktls.abi.cmsg import cmsg_space as cmsg_space
from umktls.dataclass import dataclass
from umktls.errors import CallerError

SOL_SOCKET = 0xFFFF
SO_SNDBUF = 0x1001
SO_RCVLOWAT = 0x1004

IPPROTO_TCP = 6

# Socket options at level IPPROTO_TCP.
TCP_TXTLS_ENABLE = 39
TCP_TXTLS_MODE = 40
TCP_RXTLS_ENABLE = 41
TCP_RXTLS_MODE = 42

# What TCP_TXTLS_MODE and TCP_RXTLS_MODE answer: who makes the records.
TCP_TLS_MODE_NONE = 0
TCP_TLS_MODE_SW = 1
TCP_TLS_MODE_IFNET = 2
TCP_TLS_MODE_TOE = 3
TCP_TLS_MODE_NAMES = {
    TCP_TLS_MODE_NONE: "NONE",
    TCP_TLS_MODE_SW: "SW",
    TCP_TLS_MODE_IFNET: "IFNET",
    TCP_TLS_MODE_TOE: "TOE",
}

# Control messages at level IPPROTO_TCP.
TLS_SET_RECORD_TYPE = 1
TLS_GET_RECORD = 2

TLS_RLTYPE_ALERT = 21
TLS_RLTYPE_HANDSHAKE = 22
TLS_RLTYPE_APP = 23

TLS_MAX_MSG_SIZE_V10_2 = 16384
TLS_MAX_PARAM_SIZE = 1024

TLS_MAJOR_VER_ONE = 3
TLS_MINOR_VER_ZERO = 1  # TLS 1.0
TLS_MINOR_VER_ONE = 2  # TLS 1.1
TLS_MINOR_VER_TWO = 3  # TLS 1.2
TLS_MINOR_VER_THREE = 4  # TLS 1.3

CRYPTO_SHA1_HMAC = 7
CRYPTO_AES_CBC = 11
CRYPTO_SHA2_256_HMAC = 18
CRYPTO_SHA2_384_HMAC = 19
CRYPTO_AES_NIST_GMAC = 24
CRYPTO_AES_NIST_GCM_16 = 25
CRYPTO_AES_128_NIST_GMAC = 26
CRYPTO_AES_192_NIST_GMAC = 27
CRYPTO_AES_256_NIST_GMAC = 28
CRYPTO_AES_CCM_16 = 40  # FreeBSD's number, though its kernel TLS has no CCM
CRYPTO_CHACHA20_POLY1305 = 41

# Flags of sendmsg and recvmsg.
MSG_OOB = 0x1
MSG_PEEK = 0x2
MSG_EOR = 0x8
MSG_TRUNC = 0x10
MSG_CTRUNC = 0x20
MSG_WAITALL = 0x40
MSG_DONTWAIT = 0x80
MSG_NOSIGNAL = 0x20000
MSG_TLSAPPDATA = 0x00200000  # of the kernel alone: ENXIO where an alert is next


@dataclass(frozen=True, slots=True)
class TlsEnable:
    """``struct tls_enable``: what TCP_TXTLS_ENABLE and TCP_RXTLS_ENABLE take.

    The three keys are pointers into the caller's memory, `rec_seq` is the sequence number of the
    first record (big-endian in the structure).
    """

    cipher_key: int
    iv: int
    auth_key: int
    cipher_algorithm: int
    cipher_key_len: int
    iv_len: int
    auth_algorithm: int
    auth_key_len: int
    flags: int
    tls_vmajor: int
    tls_vminor: int
    rec_seq: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQQiiiiiiBB8s6x")
    LAYOUT_V0: ClassVar[struct.Struct] = struct.Struct("<QQQiiiiiiBB6x")
    SIZE: ClassVar[int] = 64
    SIZE_V0: ClassVar[int] = 56

    def pack(self) -> bytes:
        """The 64 bytes of the structure."""
        return self.LAYOUT.pack(*self._leading(), self.rec_seq.to_bytes(8, "big"))

    def pack_v0(self) -> bytes:
        """The 56 bytes of the structure's first form, which had no ``rec_seq``."""
        return self.LAYOUT_V0.pack(*self._leading())

    def _leading(self) -> tuple[int, ...]:
        return (
            self.cipher_key,
            self.iv,
            self.auth_key,
            self.cipher_algorithm,
            self.cipher_key_len,
            self.iv_len,
            self.auth_algorithm,
            self.auth_key_len,
            self.flags,
            self.tls_vmajor,
            self.tls_vminor,
        )

    @classmethod
    def unpack_untrusted(cls, data: bytes) -> TlsEnable:
        """Read either form by its size; the 56-byte one starts at record 0.

        What is there beyond 64 bytes is not looked at, as for any socket option (sooptcopyin(9)).

        Raises:
            CallerError: EINVAL, any other size below 64.
        """
        if len(data) == cls.SIZE_V0:
            fields = (*cls.LAYOUT_V0.unpack(data), 0)
            return cls(*fields)
        if len(data) < cls.SIZE:
            raise CallerError(
                f"struct tls_enable of {len(data)} bytes: it has {cls.SIZE}, or {cls.SIZE_V0} in "
                "its first form"
            )
        *leading, rec_seq = cls.LAYOUT.unpack_from(data)
        fields = (*leading, int.from_bytes(rec_seq, "big"))
        return cls(*fields)


@dataclass(frozen=True, slots=True)
class TlsEnableRequest:
    """A TlsEnable with the keys beside it: the option's value and the memory it points to."""

    value: bytes
    memory: tuple[tuple[int, bytes], ...] = field(repr=False)

    @classmethod
    def build(
        cls, template: TlsEnable, key: bytes, iv: bytes, auth_key: bytes = b""
    ) -> TlsEnableRequest:
        """Lay the keys out at made-up addresses and fill in pointers and lengths."""
        base = 0x10000
        addresses = (base, base + len(key), base + len(key) + len(iv))
        filled = TlsEnable(
            cipher_key=addresses[0],
            iv=addresses[1],
            auth_key=addresses[2] if auth_key else 0,
            cipher_algorithm=template.cipher_algorithm,
            cipher_key_len=len(key),
            iv_len=len(iv),
            auth_algorithm=template.auth_algorithm,
            auth_key_len=len(auth_key),
            flags=template.flags,
            tls_vmajor=template.tls_vmajor,
            tls_vminor=template.tls_vminor,
            rec_seq=template.rec_seq,
        )
        segments = tuple(
            (address, data)
            for address, data in zip(addresses, (key, iv, auth_key), strict=True)
            if data
        )
        return cls(filled.pack(), segments)


@dataclass(frozen=True, slots=True)
class TlsGetRecord:
    """``struct tls_get_record``: the data of a TLS_GET_RECORD control message, 6 bytes.

    `tls_length` is in network order on the wire of this ABI.
    """

    tls_type: int
    tls_vmajor: int
    tls_vminor: int
    tls_length: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BBBxH")
    SIZE: ClassVar[int] = 6

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.tls_type, self.tls_vmajor, self.tls_vminor, self.tls_length)

    @classmethod
    def unpack_untrusted(cls, data: bytes) -> TlsGetRecord:
        """Raises CallerError (EINVAL) for any other size."""
        if len(data) != cls.SIZE:
            raise CallerError(f"struct tls_get_record of {len(data)} bytes, not {cls.SIZE}")
        return cls(*cls.LAYOUT.unpack(data))


pack_control = FREEBSD_CMSG.pack
parse_control_untrusted = FREEBSD_CMSG.parse_untrusted


def _table(names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), start=1)}


# sys/sys/errno.h, in the order of the numbers, from 1.
ERRNO = _table(
    "EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EDEADLK ENOMEM EACCES EFAULT "
    "ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG "
    "ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EAGAIN EINPROGRESS EALREADY ENOTSOCK "
    "EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP "
    "EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET "
    "ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT "
    "ECONNREFUSED ELOOP ENAMETOOLONG EHOSTDOWN EHOSTUNREACH ENOTEMPTY EPROCLIM EUSERS EDQUOT "
    "ESTALE EREMOTE EBADRPC ERPCMISMATCH EPROGUNAVAIL EPROGMISMATCH EPROCUNAVAIL ENOLCK ENOSYS "
    "EFTYPE EAUTH ENEEDAUTH EIDRM ENOMSG EOVERFLOW ECANCELED EILSEQ ENOATTR EDOOFUS EBADMSG "
    "EMULTIHOP ENOLINK EPROTO ENOTCAPABLE ECAPMODE ENOTRECOVERABLE EOWNERDEAD EINTEGRITY"
)
ERRNO_NAMES = {number: name for name, number in ERRNO.items()}
ERRNO |= {"EWOULDBLOCK": ERRNO["EAGAIN"], "ENOTSUP": ERRNO["EOPNOTSUPP"]}

_FROM_HOST = {
    getattr(_host_errno, name): number
    for name, number in ERRNO.items()
    if hasattr(_host_errno, name)
}
_TO_HOST = {
    number: getattr(_host_errno, name)
    for name, number in ERRNO.items()
    if hasattr(_host_errno, name)
}


def to_freebsd(errno: int) -> int:
    """This machine's errno as FreeBSD's number; EIO where FreeBSD has no such error; 0 stays 0."""
    return _FROM_HOST.get(errno, ERRNO["EIO"]) if errno else 0


def from_freebsd(errno: int) -> int:
    """FreeBSD's errno as this machine's number; EIO where this machine has no such error."""
    return _TO_HOST.get(errno, _host_errno.EIO) if errno else 0
