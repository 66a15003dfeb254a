"""What is counted about kernel TLS, and how each kernel shows it.

One Counters object serves all sockets of a host. It counts events in our words; two tables say
which of FreeBSD's sysctls (kern.ipc.tls, uipc_ktls.c and ktls_ocf.c) and which lines of Linux's
/proc/net/tls_stat (tls_proc.c) they are. A number that nothing here can change is shown as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field

from umktls.abi.freebsd import (
    TCP_TLS_MODE_IFNET,
    TCP_TLS_MODE_NAMES,
    TCP_TLS_MODE_SW,
    TCP_TLS_MODE_TOE,
    TLS_MAX_MSG_SIZE_V10_2,
)
from umktls.abi.linux import TLS_STAT_NAMES
from umktls.dataclass import dataclass
from umktls.ktls.session.session import Direction, Session
from umktls.ktls.session.suites import TLS_1_0, TLS_1_3, Suite

FAMILIES = {"AES-CBC": "cbc", "AES-GCM": "gcm", "CHACHA20-POLY1305": "chacha20"}
DEVICE_MODES = (TCP_TLS_MODE_IFNET, TCP_TLS_MODE_TOE)


@dataclass(slots=True)
class Sysctls:
    """The kern.ipc.tls and kern.ipc knobs that kernel TLS obeys.

    Attributes:
        enable: kern.ipc.tls.enable.
        rx_enable: kern.ipc.tls.rx_enable, the same for receiving alone.
        cbc_enable: kern.ipc.tls.cbc_enable; off here, on in FreeBSD.
        maxlen: kern.ipc.tls.maxlen, the longest payload of a record, for sockets that get their
            key for sending from now on.
        ifnet_max_rexmit_pct: kern.ipc.tls.ifnet_max_rexmit_pct.
        ifnet_permitted: kern.ipc.tls.ifnet.permitted; without it a card seals only where
            TCP_TXTLS_MODE asks for it.
        mb_use_ext_pgs: kern.ipc.mb_use_ext_pgs, without which nothing can be sent.
    """

    enable: bool = True
    rx_enable: bool = True
    cbc_enable: bool = False
    maxlen: int = TLS_MAX_MSG_SIZE_V10_2
    ifnet_max_rexmit_pct: int = 2
    ifnet_permitted: bool = True
    mb_use_ext_pgs: bool = True


@dataclass(slots=True)
class Tally:
    """Records sealed and opened in software with one kind of cipher."""

    encrypts: int = 0
    decrypts: int = 0


@dataclass(slots=True)
class Counters:
    """See the module.

    Attributes:
        enable_calls: attempts to set a key, from the third check on.
        corrupted_records: bad headers.
        failed_crypto: records that did not open; again for each time they are tried.
        failed_seals: records that the engine could not make.
        switch_to_ifnet, switch_to_sw, switch_failed: TCP_TXTLS_MODE set, or a card given up.
        ifnet_disable_ok, ifnet_disable_failed: cards given up for retransmitting too much.
        rekeys, rekey_errors: second keys taken and refused, by direction.
        rekeys_received: KeyUpdate records opened.
        decrypt_retries, no_pad_violations: records opened under TLS_RX_EXPECT_NO_PAD that were
            no unpadded application data after all.
        opened: directions with keys so far, by direction and mode.
        current: those there are now, by direction, mode and cipher.
        tallies: records of software, by version and cipher as FreeBSD names them.
    """

    enable_calls: int = 0
    corrupted_records: int = 0
    failed_crypto: int = 0
    failed_seals: int = 0
    switch_to_ifnet: int = 0
    switch_to_sw: int = 0
    switch_failed: int = 0
    ifnet_disable_ok: int = 0
    ifnet_disable_failed: int = 0
    rekeys: Counter[Direction] = field(default_factory=Counter)
    rekey_errors: Counter[Direction] = field(default_factory=Counter)
    rekeys_received: int = 0
    decrypt_retries: int = 0
    no_pad_violations: int = 0
    opened: Counter[tuple[Direction, int]] = field(default_factory=Counter)
    current: Counter[tuple[Direction, int, str]] = field(default_factory=Counter)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def opens(self, direction: Direction, mode: int, suite: Suite) -> None:
        """A direction has got its first key."""
        self.opened[direction, mode] += 1
        self.current[direction, mode, suite.cipher] += 1

    def closes(self, direction: Direction, mode: int, suite: Suite) -> None:
        """A direction with a key is no more."""
        self.current[direction, mode, suite.cipher] -= 1

    def switches(self, before: int, mode: int, suite: Suite) -> None:
        """Sending goes on in another mode, whoever wanted that."""
        self.current["tx", before, suite.cipher] -= 1
        self.current["tx", mode, suite.cipher] += 1
        if mode == TCP_TLS_MODE_IFNET:
            self.switch_to_ifnet += 1
        else:
            self.switch_to_sw += 1

    def tally(self, session: Session, mode: int) -> Tally:
        """Where the session's records are counted. A card's are no operations of the kernel's
        crypto framework, and are not."""
        if mode != TCP_TLS_MODE_SW:
            return Tally()
        return self.tallies.setdefault(_kind(session), Tally())

    def sysctl_lines(self, sysctls: Sysctls | None = None) -> list[str]:
        """`name: value`, as ``sysctl kern.ipc.tls kern.ipc.mb_use_ext_pgs`` prints them."""
        knobs = sysctls or Sysctls()
        values = {name: int(getattr(knobs, knob)) for name, knob in KNOBS.items()}
        values |= {name: read(self) for name, read in _SYSCTLS.items()}
        return [f"{name}: {values[name]}" for name in sorted(values)]

    def tls_stat_lines(self, names: Sequence[str] = TLS_STAT_NAMES) -> list[str]:
        """The lines of /proc/net/tls_stat, without line ends, for a kernel that has these."""
        return [f"{name:<32}\t{_TLS_STAT[name](self)}" for name in names]

    def _active(self, mode: int, family: str) -> int:
        return sum(
            count
            for (_, in_mode, cipher), count in self.current.items()
            if in_mode == mode and FAMILIES.get(cipher) == family
        )

    def _current(self, direction: Direction, modes: tuple[int, ...]) -> int:
        return sum(
            n for (way, mode, _), n in self.current.items() if way == direction and mode in modes
        )

    def _opened(self, direction: Direction, modes: tuple[int, ...]) -> int:
        return sum(self.opened[direction, mode] for mode in modes)


def _kind(session: Session) -> str:
    cipher = session.suite.cipher
    family = FAMILIES.get(cipher, cipher.lower())
    if family == "cbc":
        return "tls10_cbc" if session.version == TLS_1_0 else "tls11_cbc"
    return f"{'tls13' if session.version == TLS_1_3 else 'tls12'}_{family}"


Read = Callable[[Counters], int]


def _attribute(name: str) -> Read:
    return lambda counters: int(getattr(counters, name))


def _nothing(counters: Counters) -> int:
    return 0


def _active_sessions(mode: int, family: str) -> Read:
    return lambda counters: counters._active(mode, family)


def _operations(kind: str, which: str) -> Read:
    return lambda counters: int(getattr(counters.tallies.get(kind, Tally()), which))


KNOBS = {
    "kern.ipc.mb_use_ext_pgs": "mb_use_ext_pgs",
    "kern.ipc.tls.cbc_enable": "cbc_enable",
    "kern.ipc.tls.enable": "enable",
    "kern.ipc.tls.ifnet.permitted": "ifnet_permitted",
    "kern.ipc.tls.ifnet_max_rexmit_pct": "ifnet_max_rexmit_pct",
    "kern.ipc.tls.maxlen": "maxlen",
    "kern.ipc.tls.rx_enable": "rx_enable",
}
_STATS: dict[str, Read] = {
    name: _attribute(name)
    for name in (
        "enable_calls",
        "corrupted_records",
        "switch_to_ifnet",
        "switch_to_sw",
        "switch_failed",
        "ifnet_disable_ok",
        "ifnet_disable_failed",
    )
} | {
    "offload_total": lambda counters: sum(counters.opened.values()),
    "failed_crypto": lambda counters: counters.failed_crypto + counters.failed_seals,
    "active": lambda counters: sum(counters.current.values()),
    "ocf.inplace": lambda counters: sum(t.encrypts for t in counters.tallies.values()),
}
# There are no worker threads here, nor queues in front of them, nor anything to reclaim.
_ZEROES = (
    "bind_threads",
    "max_reclaim",
    "sw_buffer_cache",
    "tasks_active",
    "ifnet.reset",
    "ifnet.reset_dropped",
    "ifnet.reset_failed",
    "stats.destroy_task",
    "stats.ocf.retries",
    "stats.ocf.separate_output",
    "stats.sw_rx_inqueue",
    "stats.sw_tx_inqueue",
    "stats.sw_tx_pending",
    "stats.threads",
)
_OCF = {
    "tls10_cbc": ("encrypts",),
    "tls11_cbc": ("encrypts", "decrypts"),
    "tls12_gcm": ("encrypts", "decrypts"),
    "tls12_chacha20": ("encrypts", "decrypts"),
    "tls13_gcm": ("encrypts", "decrypts"),
    "tls13_chacha20": ("encrypts", "decrypts"),
}
_SYSCTLS: dict[str, Read] = (
    {f"kern.ipc.tls.stats.{name}": read for name, read in _STATS.items()}
    | {f"kern.ipc.tls.{name}": _nothing for name in _ZEROES}
    | {
        f"kern.ipc.tls.{TCP_TLS_MODE_NAMES[mode].lower()}.{family}": _active_sessions(mode, family)
        for mode in (TCP_TLS_MODE_SW, *DEVICE_MODES)
        for family in FAMILIES.values()
    }
    | {
        f"kern.ipc.tls.stats.ocf.{kind}_{which}": _operations(kind, which)
        for kind, both in _OCF.items()
        for which in both
    }
)
_SW = (TCP_TLS_MODE_SW,)
_TLS_STAT: dict[str, Read] = {
    "TlsCurrTxSw": lambda c: c._current("tx", _SW),
    "TlsCurrRxSw": lambda c: c._current("rx", _SW),
    "TlsCurrTxDevice": lambda c: c._current("tx", DEVICE_MODES),
    "TlsCurrRxDevice": lambda c: c._current("rx", DEVICE_MODES),
    "TlsTxSw": lambda c: c._opened("tx", _SW),
    "TlsRxSw": lambda c: c._opened("rx", _SW),
    "TlsTxDevice": lambda c: c._opened("tx", DEVICE_MODES),
    "TlsRxDevice": lambda c: c._opened("rx", DEVICE_MODES),
    "TlsDecryptError": _attribute("failed_crypto"),
    "TlsRxDeviceResync": _nothing,
    "TlsDecryptRetry": _attribute("decrypt_retries"),
    "TlsRxNoPadViolation": _attribute("no_pad_violations"),
    "TlsRxRekeyOk": lambda c: c.rekeys["rx"],
    "TlsRxRekeyError": lambda c: c.rekey_errors["rx"],
    "TlsTxRekeyOk": lambda c: c.rekeys["tx"],
    "TlsTxRekeyError": lambda c: c.rekey_errors["tx"],
    "TlsRxRekeyReceived": _attribute("rekeys_received"),
}
