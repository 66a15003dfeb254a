"""FreeBSD: TCP_TXTLS_ENABLE and TCP_RXTLS_ENABLE."""

from __future__ import annotations

import errno
from typing import Any

from tests.conformance.freebsd_sockets import CHACHA, KERNELS
from tests.conformance.rows import FREEBSD, OURS, row
from tests.conformance.world import (
    AES128,
    AES128_12,
    ENABLE,
    World,
    enable_value,
    errno_of,
    keys,
)
from umktls.abi import freebsd
from umktls.abi.freebsd import IPPROTO_TCP, TlsEnable
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0, TLS_1_1, TLS_1_2

AREA = "FreeBSD: setting keys"
BOTH: tuple[Direction, ...] = ("tx", "rx")
SHA1, SHA256, SHA384 = (ALL_SUITES[f"AES_128_CBC_{name}"] for name in ("SHA", "SHA256", "SHA384"))


def refused(w: World, direction: Direction, session: Session | None = None, **fields: Any) -> int:
    """The errno of an attempt with a field or two changed. TLS 1.2: every kernel receives it."""
    return errno_of(w.freebsd_enable, direction, session or keys(AES128_12), **fields)


@row(AREA, "1. A dropped connection: ECONNRESET, before anything is copied in", KERNELS, BOTH)
def dropped(w: World, direction: Direction) -> None:
    w.socket.conditions.dropped = True
    assert errno_of(w.set, IPPROTO_TCP, ENABLE[direction], b"") == errno.ECONNRESET


@row(AREA, "2. A structure that is too short: EINVAL; what is behind it is ignored", KERNELS, BOTH)
def size(w: World, direction: Direction) -> None:
    request = enable_value(keys(AES128_12))
    for length in (0, 55, 57, 63):
        value = request.value[:length]
        assert errno_of(w.set_request, direction, request, value) == errno.EINVAL
    w.set_request(direction, request, request.value + b"more")


@row(AREA, "2. A key pointer that leads nowhere: EFAULT", KERNELS, BOTH)
def bad_address(w: World, direction: Direction) -> None:
    assert refused(w, direction, cipher_key=0) == errno.EFAULT
    assert refused(w, direction, iv=0) == errno.EFAULT


@row(AREA, "3. kern.ipc.tls.enable is 0: ENOTSUP, and not counted as a call", KERNELS, BOTH)
def disabled(w: World, direction: Direction) -> None:
    w.sysctls.enable = False
    assert refused(w, direction) == errno.ENOTSUP
    assert w.socket.counters.enable_calls == 0
    w.sysctls.enable = True
    w.freebsd_enable(direction, keys(AES128_12))
    assert w.socket.counters.enable_calls == 1


@row(AREA, "3. kern.ipc.tls.rx_enable is 0: ENOTSUP for receiving alone", KERNELS)
def receiving_disabled(w: World) -> None:
    w.sysctls.rx_enable = False
    assert refused(w, "rx") == errno.ENOTSUP
    assert w.socket.counters.enable_calls == 0
    w.freebsd_enable("tx", keys(AES128_12))


@row(AREA, "4. Not a TCP socket: EINVAL", KERNELS, BOTH)
def not_tcp(w: World, direction: Direction) -> None:
    w.socket.conditions.tcp = False
    assert refused(w, direction) == errno.EINVAL


@row(AREA, "5. That direction is enabled already: EALREADY, no rekey", FREEBSD, BOTH)
def already(w: World, direction: Direction) -> None:
    w.freebsd_enable(direction, keys(AES128_12))
    assert refused(w, direction, keys(AES128_12, epoch=1)) == errno.EALREADY
    assert refused(w, direction, cipher_algorithm=99) == errno.EALREADY
    other: Direction = "rx" if direction == "tx" else "tx"
    w.freebsd_enable(other, keys(AES128_12))


@row(AREA, "5. A second key is taken where both are TLS 1.3's; otherwise EALREADY", OURS, BOTH)
def second_key(w: World, direction: Direction) -> None:
    w.freebsd_enable(direction, keys(sequence=5))
    w.freebsd_enable(direction, keys(epoch=1))
    other_suite = keys(ALL_SUITES["TLS_AES_256_GCM_SHA384"])
    assert refused(w, direction, other_suite) == errno.EINVAL
    other: Direction = "rx" if direction == "tx" else "tx"
    w.freebsd_enable(other, keys(AES128_12))
    assert refused(w, other) == errno.EALREADY


@row(AREA, "6. CBC while kern.ipc.tls.cbc_enable is 0: ENOTSUP", KERNELS, BOTH)
def cbc_disabled(w: World, direction: Direction) -> None:
    w.sysctls.cbc_enable = False
    assert refused(w, direction, keys(SHA1)) == errno.ENOTSUP
    assert refused(w, direction, keys(SHA1), tls_vmajor=9) == errno.ENOTSUP


@row(AREA, "7. Sending while kern.ipc.mb_use_ext_pgs is 0: ENXIO; receiving does not care", KERNELS)
def no_ext_pgs(w: World) -> None:
    w.sysctls.mb_use_ext_pgs = False
    assert refused(w, "tx", tls_vmajor=9) == errno.ENXIO
    w.freebsd_enable("rx", keys(AES128_12))


@row(AREA, "8. A major version that is not 3, a minor one outside 1 to 4: EINVAL", KERNELS, BOTH)
def version(w: World, direction: Direction) -> None:
    assert refused(w, direction, tls_vmajor=2) == errno.EINVAL
    assert refused(w, direction, tls_vminor=0) == errno.EINVAL
    assert refused(w, direction, tls_vminor=5) == errno.EINVAL


@row(AREA, "9. Lengths below 0 or above 1024 (IV: 16), no key, flags: EINVAL", KERNELS, BOTH)
def lengths(w: World, direction: Direction) -> None:
    for bad in (-1, 1025):
        assert refused(w, direction, cipher_key_len=bad) == errno.EINVAL
        assert refused(w, direction, auth_key_len=bad) == errno.EINVAL
    assert refused(w, direction, iv_len=-1) == errno.EINVAL
    assert refused(w, direction, iv_len=17) == errno.EINVAL
    assert refused(w, direction, cipher_key_len=0) == errno.EINVAL
    assert refused(w, direction, flags=1) == errno.EINVAL


@row(AREA, "10. An unknown cipher algorithm: EINVAL", KERNELS, BOTH)
def algorithm(w: World, direction: Direction) -> None:
    assert refused(w, direction, cipher_algorithm=24) == errno.EINVAL
    assert refused(w, direction, cipher_algorithm=-1) == errno.EINVAL


@row(AREA, "10. AES-CCM is no algorithm of struct tls_enable: EINVAL", FREEBSD, BOTH)
def ccm(w: World, direction: Direction) -> None:
    assert refused(w, direction, keys(ALL_SUITES["AES_128_CCM"])) == errno.EINVAL


@row(AREA, "10. AES-128-CCM by FreeBSD's number for it", OURS, BOTH)
def our_ccm(w: World, direction: Direction) -> None:
    for name in ("AES_128_CCM", "TLS_AES_128_CCM_SHA256"):
        World("umktls").freebsd_enable(direction, keys(ALL_SUITES[name]))
    assert refused(w, direction, keys(ALL_SUITES["AES_128_CCM"]), iv_len=12) == errno.EINVAL


@row(
    AREA, "11. GCM with an authentication algorithm or key: EINVAL, but old GMAC ids", KERNELS, BOTH
)
def gcm_auth(w: World, direction: Direction) -> None:
    assert refused(w, direction, auth_algorithm=freebsd.CRYPTO_SHA1_HMAC) == errno.EINVAL
    assert refused(w, direction, auth_key_len=20) == errno.EINVAL
    w.freebsd_enable(direction, keys(AES128_12), auth_algorithm=freebsd.CRYPTO_AES_128_NIST_GMAC)


@row(AREA, "11. GCM: TLS 1.2 with an IV of 4 or TLS 1.3 with one of 12, else EINVAL", KERNELS, BOTH)
def gcm_iv(w: World, direction: Direction) -> None:
    assert refused(w, direction, tls_vminor=1) == errno.EINVAL
    assert refused(w, direction, tls_vminor=2) == errno.EINVAL
    assert refused(w, direction, tls_vminor=4) == errno.EINVAL
    assert refused(w, direction, keys(AES128), tls_vminor=3) == errno.EINVAL


@row(
    AREA, "12. ChaCha20: no authentication, TLS 1.2 or 1.3, an IV of 12, else EINVAL", KERNELS, BOTH
)
def chacha(w: World, direction: Direction) -> None:
    session = keys(CHACHA)
    assert refused(w, direction, session, auth_algorithm=7) == errno.EINVAL
    assert refused(w, direction, session, auth_key_len=20) == errno.EINVAL
    assert refused(w, direction, session, tls_vminor=1) == errno.EINVAL
    assert refused(w, direction, session, tls_vminor=2) == errno.EINVAL
    assert refused(w, direction, session, iv_len=4) == errno.EINVAL
    w.freebsd_enable(direction, session)


@row(AREA, "13. CBC with TLS 1.3, SHA-2 before TLS 1.2, no MAC key, no MAC: EINVAL", KERNELS, BOTH)
def cbc(w: World, direction: Direction) -> None:
    for suite in (SHA1, SHA256, SHA384):
        assert refused(w, direction, keys(suite), tls_vminor=4) == errno.EINVAL
        assert refused(w, direction, keys(suite), auth_key_len=0) == errno.EINVAL
        assert refused(w, direction, keys(suite), auth_algorithm=0) == errno.EINVAL
    for suite in (SHA256, SHA384):
        assert refused(w, direction, keys(suite), tls_vminor=1) == errno.EINVAL
        assert refused(w, direction, keys(suite), tls_vminor=2) == errno.EINVAL


@row(AREA, "13. CBC of TLS 1.0 has an IV of 16; 1.1 and 1.2 ignore theirs", KERNELS)
def cbc_iv(w: World) -> None:
    first = keys(SHA1, TLS_1_0)
    assert refused(w, "tx", first, iv_len=12) == errno.EINVAL
    w.freebsd_enable("tx", first)
    for version in (TLS_1_1, TLS_1_2):
        # The pointer leads nowhere, and nobody follows it.
        World(w.personality.name).freebsd_enable("tx", keys(SHA1, version), iv_len=7, iv=1)


@row(AREA, "14. Keys of 16 or 32 bytes, for ChaCha20 of 32, else EINVAL", KERNELS, BOTH)
def key_length(w: World, direction: Direction) -> None:
    assert refused(w, direction, cipher_key_len=24) == errno.EINVAL
    assert refused(w, direction, keys(SHA1), cipher_key_len=24) == errno.EINVAL
    assert refused(w, direction, keys(CHACHA), cipher_key_len=16) == errno.EINVAL


@row(AREA, "15. Receiving CBC of TLS 1.0: EPROTONOSUPPORT", KERNELS)
def rx_cbc_1_0(w: World) -> None:
    assert refused(w, "rx", keys(SHA1, TLS_1_0)) == errno.EPROTONOSUPPORT
    w.freebsd_enable("tx", keys(SHA1, TLS_1_0))


@row(AREA, "15. Receiving any CBC: EPROTONOSUPPORT", ("freebsd13.0", "freebsd13"))
def rx_cbc(w: World) -> None:
    for suite in (SHA1, SHA256, SHA384):
        assert refused(w, "rx", keys(suite)) == errno.EPROTONOSUPPORT


@row(AREA, "15. Receiving CBC of TLS 1.1 and 1.2", ("freebsd14", "freebsd15", "umktls"))
def rx_cbc_since_14(w: World) -> None:
    w.freebsd_enable("rx", keys(SHA1, TLS_1_1))
    World(w.personality.name).freebsd_enable("rx", keys(SHA384))


@row(AREA, "15. Receiving TLS 1.3: EPROTONOSUPPORT; sending it works", ("freebsd13.0",))
def rx_tls13(w: World) -> None:
    assert refused(w, "rx", keys(AES128)) == errno.EPROTONOSUPPORT
    w.freebsd_enable("tx", keys(AES128))
    assert (w.mode("tx"), w.mode("rx")) == (1, 0)


@row(AREA, "16. A listening socket: EINVAL, and only if nothing else is wrong", KERNELS, BOTH)
def listening(w: World, direction: Direction) -> None:
    w.socket.conditions.listening = True
    assert refused(w, direction) == errno.EINVAL
    assert w.socket.session(direction) is None
    assert refused(w, direction, cipher_key=0) == errno.EFAULT
    assert refused(w, "rx", keys(SHA1, TLS_1_0)) == errno.EPROTONOSUPPORT


@row(AREA, "17. A spliced socket: EINVAL, and only if nothing else is wrong", ("freebsd15",), BOTH)
def spliced(w: World, direction: Direction) -> None:
    w.socket.conditions.spliced = True
    assert refused(w, direction) == errno.EINVAL
    assert w.socket.session(direction) is None
    assert refused(w, direction, cipher_key=0) == errno.EFAULT


@row(AREA, "Of two faults the one that is looked at first is told", KERNELS, BOTH)
def order(w: World, direction: Direction) -> None:
    w.sysctls.cbc_enable = w.sysctls.mb_use_ext_pgs = False
    both = ("tx", errno.ENXIO), ("rx", errno.EINVAL)
    assert refused(w, direction, tls_vmajor=0) == dict(both)[direction]
    assert refused(w, direction, keys(SHA1), tls_vmajor=0) == errno.ENOTSUP
    w.sysctls.mb_use_ext_pgs = True
    assert refused(w, direction, cipher_algorithm=99, cipher_key=0) == errno.EINVAL
    assert refused(w, direction, cipher_key_len=24, cipher_key=0) == errno.EFAULT


@row(AREA, "struct tls_enable without rec_seq (56 bytes) starts at record 0 when sending", KERNELS)
def first_form(w: World) -> None:
    request = enable_value(keys(sequence=9))
    w.set_request("tx", request, TlsEnable.unpack_untrusted(request.value).pack_v0())
    assert w.socket.tx.sequence == 0


@row(AREA, "The 56-byte structure for receiving too", ("freebsd15", "umktls"))
def first_form_rx(w: World) -> None:
    request = enable_value(keys(sequence=9))
    w.set_request("rx", request, TlsEnable.unpack_untrusted(request.value).pack_v0())
    assert w.socket.rx.sequence == 0


@row(AREA, "The 56-byte structure for receiving: EINVAL", ("freebsd13", "freebsd14"))
def no_first_form_rx(w: World) -> None:
    request = enable_value(keys())
    value = TlsEnable.unpack_untrusted(request.value).pack_v0()
    assert errno_of(w.set_request, "rx", request, value) == errno.EINVAL


@row(AREA, "An unconnected socket can be enabled; sending on it fails as ever: ENOTCONN", KERNELS)
def unconnected(w: World) -> None:
    w.socket.conditions.connected = False
    w.freebsd_enable("tx", keys())
    assert errno_of(w.send, b"data") == errno.ENOTCONN
    assert w.socket.tx.sequence == 0


@row(AREA, "There is no way back: TLS stays for the life of the socket", KERNELS)
def no_way_back(w: World) -> None:
    w.freebsd_enable("tx", keys())
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_NONE) == errno.EINVAL
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_SW
