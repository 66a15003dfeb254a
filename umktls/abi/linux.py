"""Linux's side of kernel TLS: socket options, crypto_info layouts, counters' names.

Names and values of include/uapi/linux/tls.h, tcp.h, snmp.h and socket.h. Integers are in the
machine's own order (little-endian on every machine this runs on); `iv`, `key`, `salt` and `rec_seq`
are byte strings.
"""

from __future__ import annotations

import struct
from dataclasses import field

from umktls.abi.cmsg import LINUX_CMSG
from umktls.dataclass import dataclass
from umktls.errors import CallerError

SOL_SOCKET = 1
SO_SNDBUF = 7
SO_RCVLOWAT = 18

SOL_TCP = 6
TCP_ULP = 31
TCP_ULP_NAME_MAX = 16
TLS_ULP_NAME = b"tls"
SOL_TLS = 282

TLS_TX = 1
TLS_RX = 2
TLS_TX_ZEROCOPY_RO = 3
TLS_RX_EXPECT_NO_PAD = 4
TLS_TX_MAX_PAYLOAD_LEN = 5

TLS_1_2_VERSION = 0x0303
TLS_1_3_VERSION = 0x0304

# Control messages at level SOL_TLS, one byte of data each.
TLS_SET_RECORD_TYPE = 1
TLS_GET_RECORD_TYPE = 2

TLS_MAX_PAYLOAD_SIZE = 16384
# The least that TLS_TX_MAX_PAYLOAD_LEN takes, by version (0: none set yet).
TLS_MIN_PAYLOAD_SIZE = {0: 64, TLS_1_2_VERSION: 64, TLS_1_3_VERSION: 63}

# Flags of sendmsg and recvmsg.
MSG_OOB = 0x1
MSG_PEEK = 0x2
MSG_CTRUNC = 0x8
MSG_TRUNC = 0x20
MSG_DONTWAIT = 0x40
MSG_EOR = 0x80
MSG_WAITALL = 0x100
MSG_ERRQUEUE = 0x2000
MSG_NOSIGNAL = 0x4000
MSG_MORE = 0x8000

pack_control = LINUX_CMSG.pack
parse_control_untrusted = LINUX_CMSG.parse_untrusted

TLS_CONF_BASE = 1
TLS_CONF_SW = 2
TLS_CONF_HW = 3
TLS_CONF_HW_RECORD = 4

TLS_CIPHER_AES_GCM_128 = 51
TLS_CIPHER_AES_GCM_256 = 52
TLS_CIPHER_AES_CCM_128 = 53
TLS_CIPHER_CHACHA20_POLY1305 = 54
TLS_CIPHER_SM4_GCM = 55
TLS_CIPHER_SM4_CCM = 56
TLS_CIPHER_ARIA_GCM_128 = 57
TLS_CIPHER_ARIA_GCM_256 = 58

_VERSION_AND_CIPHER = struct.Struct("<HH")
CRYPTO_INFO_HEADER_SIZE = _VERSION_AND_CIPHER.size


@dataclass(frozen=True, slots=True)
class CryptoInfoLayout:
    """Field sizes in bytes of one ``struct tls12_crypto_info_*``, in the structure's order."""

    name: str
    iv: int
    key: int
    salt: int
    rec_seq: int
    versions: frozenset[int]

    @property
    def size(self) -> int:
        return CRYPTO_INFO_HEADER_SIZE + self.iv + self.key + self.salt + self.rec_seq


_BOTH = frozenset({TLS_1_2_VERSION, TLS_1_3_VERSION})
_TLS12 = frozenset({TLS_1_2_VERSION})

CRYPTO_INFO_LAYOUTS = {
    TLS_CIPHER_AES_GCM_128: CryptoInfoLayout("AES_GCM_128", 8, 16, 4, 8, _BOTH),
    TLS_CIPHER_AES_GCM_256: CryptoInfoLayout("AES_GCM_256", 8, 32, 4, 8, _BOTH),
    TLS_CIPHER_AES_CCM_128: CryptoInfoLayout("AES_CCM_128", 8, 16, 4, 8, _BOTH),
    TLS_CIPHER_CHACHA20_POLY1305: CryptoInfoLayout("CHACHA20_POLY1305", 12, 32, 0, 8, _BOTH),
    TLS_CIPHER_SM4_GCM: CryptoInfoLayout("SM4_GCM", 8, 16, 4, 8, _BOTH),
    TLS_CIPHER_SM4_CCM: CryptoInfoLayout("SM4_CCM", 8, 16, 4, 8, _BOTH),
    TLS_CIPHER_ARIA_GCM_128: CryptoInfoLayout("ARIA_GCM_128", 8, 16, 4, 8, _TLS12),
    TLS_CIPHER_ARIA_GCM_256: CryptoInfoLayout("ARIA_GCM_256", 8, 32, 4, 8, _TLS12),
}


@dataclass(frozen=True, slots=True)
class CryptoInfo:
    """Any ``struct tls12_crypto_info_*``: the value of TLS_TX and TLS_RX."""

    version: int
    cipher_type: int
    iv: bytes = field(repr=False)
    key: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    rec_seq: bytes

    def pack(self) -> bytes:
        header = _VERSION_AND_CIPHER.pack(self.version, self.cipher_type)
        return header + self.iv + self.key + self.salt + self.rec_seq

    @classmethod
    def unpack_untrusted(cls, data: bytes) -> CryptoInfo:
        """Check in the kernel's order: header there, version, cipher, exact size.

        Raises:
            CallerError: EINVAL, whichever check failed.
        """
        if len(data) < CRYPTO_INFO_HEADER_SIZE:
            raise CallerError(f"crypto_info of {len(data)} bytes has no version and cipher type")
        version, cipher_type = _VERSION_AND_CIPHER.unpack_from(data)
        if version not in _BOTH:
            raise CallerError(f"crypto_info version {version:#06x} is not TLS 1.2 or 1.3")
        layout = CRYPTO_INFO_LAYOUTS.get(cipher_type)
        if layout is None or version not in layout.versions:
            raise CallerError(f"cipher type {cipher_type} is unknown for version {version:#06x}")
        if len(data) != layout.size:
            raise CallerError(
                f"crypto_info for {layout.name} has {layout.size} bytes, not {len(data)}"
            )
        return cls(version, cipher_type, *_cut(data, layout))


def _cut(data: bytes, layout: CryptoInfoLayout) -> list[bytes]:
    fields = []
    offset = CRYPTO_INFO_HEADER_SIZE
    for size in (layout.iv, layout.key, layout.salt, layout.rec_seq):
        fields.append(data[offset : offset + size])
        offset += size
    return fields


# The lines of /proc/net/tls_stat in their order.
TLS_STAT_NAMES = (
    "TlsCurrTxSw",
    "TlsCurrRxSw",
    "TlsCurrTxDevice",
    "TlsCurrRxDevice",
    "TlsTxSw",
    "TlsRxSw",
    "TlsTxDevice",
    "TlsRxDevice",
    "TlsDecryptError",
    "TlsRxDeviceResync",
    "TlsDecryptRetry",
    "TlsRxNoPadViolation",
    "TlsRxRekeyOk",
    "TlsRxRekeyError",
    "TlsTxRekeyOk",
    "TlsTxRekeyError",
    "TlsRxRekeyReceived",
)
TLS_STAT_NAMES_6_12 = TLS_STAT_NAMES[:12]  # those about rekeying came with it

# Connections of a mount at most, nconnect= of nfs(5): fs/nfs/internal.h.
NFS_MAX_CONNECTIONS = 16
