"""FreeBSD: TCP_TXTLS_ENABLE, TCP_RXTLS_ENABLE and the modes."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from typing import Any

from tests.conformance.rows import FREEBSD, OURS, not_here, row
from tests.conformance.world import (
    AES128,
    AES128_12,
    ENABLE,
    ENGINE,
    World,
    enable_value,
    errno_of,
    keys,
)
from umktls.abi import freebsd
from umktls.abi.freebsd import IPPROTO_TCP, TlsEnable
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0, TLS_1_1, TLS_1_2

AREA = "FreeBSD: setting keys"
BOTH: tuple[Direction, ...] = ("tx", "rx")
KERNELS = (*FREEBSD, *OURS)
SHA1, SHA256, SHA384 = (ALL_SUITES[f"AES_128_CBC_{name}"] for name in ("SHA", "SHA256", "SHA384"))
CHACHA = ALL_SUITES["CHACHA20_POLY1305_SHA256"]


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


MODES = "FreeBSD: modes"


@row(MODES, "Both modes are NONE until a key is set, then the engine's", KERNELS)
def modes(w: World) -> None:
    assert (w.mode("tx"), w.mode("rx")) == (0, 0)
    w.freebsd_enable("tx", keys(AES128_12))
    assert (w.mode("tx"), w.mode("rx")) == (1, 0)
    w.freebsd_enable("rx", keys(AES128_12))
    assert (w.mode("tx"), w.mode("rx")) == (1, 1)


@row(MODES, "TCP_RXTLS_MODE cannot be set, the ENABLE options cannot be got: ENOPROTOOPT", KERNELS)
def directions_of_options(w: World) -> None:
    one = struct.pack("<i", 1)
    assert errno_of(w.set, IPPROTO_TCP, freebsd.TCP_RXTLS_MODE, one) == errno.ENOPROTOOPT
    for number in ENABLE.values():
        assert errno_of(w.socket.getsockopt, IPPROTO_TCP, number, 64) == errno.ENOPROTOOPT


@row(MODES, "Only SW and IFNET can be set, else EINVAL; less than an int: EINVAL", KERNELS)
def settable(w: World) -> None:
    for mode in (0, 3, 4, -1):
        assert errno_of(w.set_mode, mode) == errno.EINVAL
    assert errno_of(w.set, IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, b"\1\0\0") == errno.EINVAL


@row(MODES, "Without a session setting the mode does nothing; nor does the same mode", KERNELS)
def nothing_to_switch(w: World) -> None:
    w.set_mode(freebsd.TCP_TLS_MODE_SW)
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)
    assert w.mode("tx") == 0
    w.freebsd_enable("tx", keys())
    w.set_mode(freebsd.TCP_TLS_MODE_SW)
    assert w.socket.counters.switch_to_sw == 0


class Card(SoftwareEngine):
    """A card that seals in software."""

    name = "card"
    mode = freebsd.TCP_TLS_MODE_IFNET


def with_card(w: World) -> World:
    w.socket = KtlsSocket(ENGINE, ENGINE, w.personality, w.sysctls, more_tx_engines=(Card(),))
    return w


@row(MODES, "From SW to IFNET and back while records go on; IFNET twice: EALREADY", KERNELS)
def switching(w: World) -> None:
    with_card(w).freebsd_enable("tx", keys(AES128, sequence=3))
    opener = w.peer(keys(AES128, sequence=3))
    assert opener.open(w.send(b"one")) == [(23, b"one")]
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_IFNET
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_IFNET) == errno.EALREADY
    assert opener.open(w.send(b"two")) == [(23, b"two")]
    w.set_mode(freebsd.TCP_TLS_MODE_SW)
    assert opener.open(w.send(b"three")) == [(23, b"three")]
    counters = w.socket.counters
    assert (counters.switch_to_ifnet, counters.switch_to_sw, counters.switch_failed) == (1, 1, 0)


@row(MODES, "No card that could: EOPNOTSUPP, counted as a failed switch", KERNELS)
def no_card(w: World) -> None:
    w.freebsd_enable("tx", keys())
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_IFNET) == errno.EOPNOTSUPP
    assert w.socket.counters.switch_failed == 1


@row(MODES, "A card given up for retransmitting too much is not taken again: ENXIO", KERNELS)
def given_up(w: World) -> None:
    with_card(w).freebsd_enable("tx", keys())
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)
    assert w.socket.disable_ifnet()
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_SW
    assert errno_of(w.set_mode, freebsd.TCP_TLS_MODE_IFNET) == errno.ENXIO
    counters = w.socket.counters
    assert (counters.ifnet_disable_ok, counters.switch_to_sw, counters.switch_failed) == (1, 1, 0)


@row(
    MODES, "kern.ipc.tls.ifnet.permitted is 0: a first key goes to software, not to a card", KERNELS
)
def not_permitted(w: World) -> None:
    w.sysctls.ifnet_permitted = False
    w.socket = KtlsSocket(
        Card(), ENGINE, w.personality, w.sysctls, more_tx_engines=(SoftwareEngine(),)
    )
    w.freebsd_enable("tx", keys())
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_SW
    assert w.socket.engine_name("tx") == "software"
    w.set_mode(freebsd.TCP_TLS_MODE_IFNET)  # this one insists
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_IFNET
    assert w.peer().open(w.send(b"data")) == [(23, b"data")]
    other = KtlsSocket(Card(), ENGINE, w.personality, more_tx_engines=(SoftwareEngine(),))
    w.socket = other
    w.freebsd_enable("tx", keys())
    assert w.mode("tx") == freebsd.TCP_TLS_MODE_IFNET


@row(MODES, "A listening socket: EINVAL; a dropped one: ECONNRESET", KERNELS)
def modes_of_odd_sockets(w: World) -> None:
    w.socket.conditions.listening = True
    assert errno_of(w.mode, "tx") == errno.EINVAL
    assert errno_of(w.set_mode, 1) == errno.EINVAL
    w.socket.conditions.dropped = True
    assert errno_of(w.mode, "rx") == errno.ECONNRESET
    assert errno_of(w.set_mode, 1) == errno.ECONNRESET


not_here(
    MODES,
    "A switch that loses a race against another one: EBUSY",
    FREEBSD,
    "Two switches of one socket never happen at the same time here.",
)


NUMBERS = "FreeBSD: numbers and layouts"


@row(NUMBERS, "errno numbers are FreeBSD's", FREEBSD)
def errno_numbers(w: World) -> None:
    numbers = {"EAGAIN": 35, "EALREADY": 37, "EMSGSIZE": 40, "EPROTONOSUPPORT": 43, "ENOTSUP": 45}
    numbers |= {"ECONNRESET": 54, "ENOTCONN": 57, "EBADMSG": 89, "EINVAL": 22, "ENXIO": 6}
    for name, number in numbers.items():
        assert w.personality.errno(getattr(errno, name)) == number


@row(NUMBERS, "struct tls_enable has 64 bytes, and rec_seq is big-endian at offset 50", KERNELS)
def layout(w: World) -> None:
    value = enable_value(keys(sequence=0x0102030405060708)).value
    assert len(value) == 64
    assert value[48:58] == bytes([3, 4, 1, 2, 3, 4, 5, 6, 7, 8])
    w.freebsd_enable("tx", keys(sequence=0x0102030405060708))
    assert w.socket.tx.sequence == 0x0102030405060708


@row(NUMBERS, "Explicit nonces of GCM begin anywhere and count up", FREEBSD)
def random_nonces(w: World) -> None:
    starts = set()
    for _ in range(4):
        other = World(w.personality.name)
        other.freebsd_enable("tx", replace(keys(AES128_12), nonce=None))
        first, second = other.send(b"x"), other.send(b"y")
        starts.add(first[5:13])
        following = (int.from_bytes(first[5:13], "big") + 1) % 2**64
        assert second[5:13] == following.to_bytes(8, "big")
    assert len(starts) == 4


SYSCTLS = "FreeBSD: sysctls"
NAMES = """
kern.ipc.mb_use_ext_pgs
kern.ipc.tls: enable cbc_enable maxlen bind_threads ifnet_max_rexmit_pct sw_buffer_cache max_reclaim
 tasks_active rx_enable ifnet.permitted ifnet.reset ifnet.reset_dropped ifnet.reset_failed
 sw.cbc sw.gcm sw.chacha20 ifnet.cbc ifnet.gcm ifnet.chacha20 toe.cbc toe.gcm toe.chacha20
kern.ipc.tls.stats: threads sw_tx_pending sw_tx_inqueue sw_rx_inqueue offload_total enable_calls
 active corrupted_records failed_crypto switch_to_ifnet switch_to_sw switch_failed
 ifnet_disable_failed ifnet_disable_ok destroy_task
kern.ipc.tls.stats.ocf: tls10_cbc_encrypts tls11_cbc_encrypts tls11_cbc_decrypts
 tls12_gcm_encrypts tls12_gcm_decrypts tls12_chacha20_encrypts tls12_chacha20_decrypts
 tls13_gcm_encrypts tls13_gcm_decrypts tls13_chacha20_encrypts tls13_chacha20_decrypts
 inplace separate_output retries
"""


def sysctls(w: World) -> dict[str, int]:
    lines = [line.split(": ") for line in w.socket.counters.sysctl_lines(w.sysctls)]
    return {name: int(value) for name, value in lines}


@row(SYSCTLS, "Every one has its name under kern.ipc.tls, and no other is there", KERNELS)
def names(w: World) -> None:
    expected, node = set(), ""
    for word in NAMES.split():
        if word.startswith("kern."):
            node = word.removesuffix(":") + "."
            expected |= {word} - {word.removesuffix(":") + ":"}
        else:
            expected.add(node + word)
    assert set(sysctls(w)) == expected


@row(
    SYSCTLS,
    "Sessions that there are, by mode and cipher; operations, by version and cipher",
    KERNELS,
)
def counted(w: World) -> None:
    w.freebsd_enable("tx", keys(CHACHA))
    w.freebsd_enable("rx", keys(CHACHA))
    w.arrive(w.send(b"x" * 20000))
    w.recv(10)
    w.recv()
    values = sysctls(w)
    assert values["kern.ipc.tls.sw.chacha20"] == values["kern.ipc.tls.stats.active"] == 2
    assert values["kern.ipc.tls.stats.offload_total"] == 2
    assert values["kern.ipc.tls.stats.ocf.tls12_chacha20_encrypts"] == 2
    w.outcomes(2)
    assert sysctls(w)["kern.ipc.tls.stats.ocf.tls12_chacha20_decrypts"] == 2
    w.socket.close()
    values = sysctls(w)
    assert values["kern.ipc.tls.sw.chacha20"] == values["kern.ipc.tls.stats.active"] == 0
    assert values["kern.ipc.tls.stats.offload_total"] == 2


@row(SYSCTLS, "stats.ocf counts what is sealed in software, not what a card seals", KERNELS)
def ocf_of_a_card(w: World) -> None:
    with_card(w).freebsd_enable("tx", keys(AES128))
    for mode, expected in ((freebsd.TCP_TLS_MODE_IFNET, 1), (freebsd.TCP_TLS_MODE_SW, 2)):
        w.send(b"data")
        w.set_mode(mode)
        w.send(b"data")
        values = sysctls(w)
        assert values["kern.ipc.tls.stats.ocf.tls13_gcm_encrypts"] == expected
        assert values["kern.ipc.tls.stats.ocf.inplace"] == expected
    w.socket = KtlsSocket(Card(), Card(), w.personality, w.sysctls)
    w.freebsd_enable("tx", keys(AES128_12))
    w.freebsd_enable("rx", keys(AES128_12))
    w.arrive(w.send(b"data"))
    assert w.recv()[0] == b"data"
    assert not any("ocf" in name and value for name, value in sysctls(w).items())
