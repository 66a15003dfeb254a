"""What a KTLS socket is: two halves with their keys, and what is known of the connection below.

Socket options, sendmsg and recvmsg work on this (options/, sending.py, receiving.py); the socket
that has these calls is put together above them (calls.py). What differs between kernels is in the
personality.

An engine makes and opens the records. A sending socket can be given more engines than one, for the
modes that TCP_TXTLS_MODE switches between (SW, IFNET).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from umktls.abi.freebsd import (
    TCP_TLS_MODE_IFNET,
    TCP_TLS_MODE_NAMES,
    TCP_TLS_MODE_NONE,
    TCP_TLS_MODE_SW,
)
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.dataclass import dataclass
from umktls.errors import UmktlsError, UnsupportedError, WorldError
from umktls.ktls.engines import Buffer, Engine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.counters import Counters, Sysctls
from umktls.ktls.session.errors import SealFailed
from umktls.ktls.session.framing import framing_of
from umktls.ktls.session.suites import TLS_1_2, TLS_1_3
from umktls.ktls.socket.rx import Receiver
from umktls.ktls.socket.tx import Transmitter

SEND_HIGH_WATER = 2 * 1024 * 1024


@dataclass(slots=True)
class Conditions:
    """What is asked about the TCP connection below; whoever has it keeps this up to date.

    Attributes:
        dropped: there is no connection any more: TCP's state is CLOSE, after a reset or a time-out.
            `KtlsSocketState.connection_lost` sets it, and tells readers why.
        established: neither side has closed. Only Linux's TCP_ULP asks.
        shut: shutdown(SHUT_WR) was called: nothing is sent any more, and what MSG_MORE has kept
            open stays where it is.
        listening, tcp, connected, spliced: a daemon gets its sockets connected and by themselves,
            so these are for who tries the model out. Spliced (SO_SPLICE) to another one is a socket
            of the newest FreeBSD's only.
    """

    dropped: bool = False
    established: bool = True
    shut: bool = False
    listening: bool = False
    tcp: bool = True
    connected: bool = True
    spliced: bool = False


class KtlsSocketState:
    """The two halves, and what becomes of them. `umktls.ktls.calls.KtlsSocket` adds the calls.

    Attributes:
        tx, rx: the halves.
        conditions: of the TCP connection below.
        counters: of the host.
        send_high_water: SO_SNDBUF; FreeBSD's so_snd.sb_hiwat, the longest message with a type of
            its own.
        receive_low_water: SO_RCVLOWAT.
        open_record: what MSG_MORE has kept back, in clear.
        pending_wire: records that were sealed and not handed out yet; see `send`.
        ulp, zerocopy_ro, expect_no_pad: what Linux's options have set.
        ifnet_disabled: the card sends too much again and is not asked any more.
        keys_set: how often the keys of each direction were set.
    """

    def __init__(
        self,
        tx_engine: Engine,
        rx_engine: Engine,
        personality: Personality = DEFAULT_PERSONALITY,
        sysctls: Sysctls | None = None,
        counters: Counters | None = None,
        more_tx_engines: Iterable[Engine] = (),
    ) -> None:
        self.personality = personality
        self.sysctls = sysctls or Sysctls()
        self.counters = counters or Counters()
        self.conditions = Conditions()
        self.send_high_water = SEND_HIGH_WATER
        self.receive_low_water = 1
        self.open_record = bytearray()
        self.pending_wire: list[Buffer] = []
        self.ulp = False
        self.zerocopy_ro = False
        self.expect_no_pad = False
        self.ifnet_disabled = False
        keys = personality.keys
        self.tx = Transmitter(limits=keys.limits, sequence_end=keys.sequence_end)
        self.tx.on_failed = self._seal_failed
        self.rx = Receiver(personality, self.counters)
        self._engines: dict[Direction, Engine] = {"tx": tx_engine, "rx": rx_engine}
        self._tx_engines = {engine.mode: engine for engine in (*more_tx_engines, tx_engine)}
        self._sessions: dict[Direction, Session] = {}
        self.keys_set: dict[Direction, int] = {"tx": 0, "rx": 0}
        self._closed = False

    # What there is

    def engine_name(self, direction: Direction) -> str | None:
        """Who makes this direction's records, None while it is in clear."""
        return self._engines[direction].name if direction in self._sessions else None

    def mode(self, direction: Direction) -> int:
        """TCP_TLS_MODE_* of a direction."""
        return self._engines[direction].mode if direction in self._sessions else TCP_TLS_MODE_NONE

    def session(self, direction: Direction) -> Session | None:
        """The session of a direction as it is now, None while it is in clear."""
        session = self._sessions.get(direction)
        return session and session.at(self._half(direction).sequence)

    def version(self, direction: Direction) -> int:
        """TLS version of a direction, 0 while it is in clear."""
        session = self._sessions.get(direction)
        return session.version if session else 0

    def wire_minor(self, direction: Direction) -> int:
        """Minor version that the records of a direction say: TLS 1.3's say 3.3."""
        return min(self.version(direction), TLS_1_2) & 0xFF

    @property
    def dropped(self) -> bool:
        """The connection is no more, be it by TCP or for a bad record header."""
        return self.conditions.dropped or self.rx.dropped

    @property
    def sending_over(self) -> bool:
        """TCP takes nothing any more."""
        return self.conditions.dropped or self.conditions.shut

    @property
    def ended(self) -> bool:
        """Nothing more will come; something may be left to read."""
        return self.conditions.dropped or self.rx.ended

    def connection_lost(self, error: UmktlsError | None = None) -> None:
        """TCP has lost the connection, by `error` (ECONNRESET).

        Options and sendmsg know it at once. recvmsg, and `rx.pull`, first give what is queued, then
        the error, once, then the end of the stream.
        """
        if self.rx.rules.decrypts_ahead:
            self.rx.open_ahead()
        self._drop(error or WorldError("the connection was reset", errno.ECONNRESET))

    def _drop(self, error: UmktlsError) -> None:
        self.conditions.dropped = True
        self.rx.lost(error)

    def _seal_failed(self, error: SealFailed) -> bool:
        """The engine has failed, in whatever thread: whether sending is over."""
        self.counters.failed_seals += 1
        if self.personality.sending.seal_failed != "EBADMSG":
            self._drop(error)
            return True
        error.errno = errno.EBADMSG
        self.open_record.clear()
        if self.personality.sending.shares_errors:
            self.rx.error = error
        return False

    @property
    def wants_rekey(self) -> bool:
        """A key is nearly used up: the daemon should be asked for new ones."""
        return self.tx.wants_rekey or self.rx.wants_rekey

    def _half(self, direction: Direction) -> Transmitter | Receiver:
        return self.tx if direction == "tx" else self.rx

    # What options do

    def unsupported(self, direction: Direction, session: Session) -> str | None:
        """None if the direction's engine can serve the session, otherwise who cannot, and why."""
        engine = self._next_engine(direction)
        reason = engine.supports(session, direction)
        return None if reason is None else f"engine {engine.name}: {reason}"

    def install(self, direction: Direction, session: Session) -> None:
        """The point of no return: from here on, or under a new key, `direction` has records."""
        engine = self._engines[direction] = self._next_engine(direction)
        again = direction in self._sessions
        if direction == "tx":
            set_sealer = self.tx.rekey if again else self.tx.enable
            set_sealer(engine.sealer(session), session.suite)
            self.tx.tally = self.counters.tally(session, engine.mode)
        else:
            set_opener = self.rx.rekey if again else self.rx.enable
            needed = framing_of(session).needed
            set_opener(engine.opener(session), session.suite, needed)
            self.rx.tally = self.counters.tally(session, engine.mode)
            self.rx.interleaves = session.version < TLS_1_3
        if again:
            self._sessions[direction].wipe()
        self._sessions[direction] = session.kept()
        self.keys_set[direction] += 1
        if again:
            self.counters.rekeys[direction] += 1
        else:
            self.counters.opens(direction, engine.mode, session.suite)

    def _next_engine(self, direction: Direction) -> Engine:
        """Who is to work with the next key. Where kern.ipc.tls.ifnet.permitted is 0 FreeBSD asks
        no card for a first key (ktls_try_ifnet); TCP_TXTLS_MODE still gets one."""
        engine = self._engines[direction]
        permitted = (
            self.sysctls.ifnet_permitted or "freebsd" not in self.personality.keys.interfaces
        )
        if engine.mode == TCP_TLS_MODE_IFNET and not permitted and direction not in self._sessions:
            return self._tx_engines.get(TCP_TLS_MODE_SW, engine)
        return engine

    def switch_tx(self, mode: int) -> None:
        """Go on sealing with the engine of that mode, under the same key (ktls_set_tx_mode).

        Raises:
            UnsupportedError: EOPNOTSUPP, there is none, or it cannot serve the session.
        """
        try:
            self._switch_tx(mode)
        except UnsupportedError:
            self.counters.switch_failed += 1
            raise

    def _switch_tx(self, mode: int) -> None:
        session = self.session("tx")
        engine = self._tx_engines.get(mode)
        if session is None or engine is None:
            name = TCP_TLS_MODE_NAMES.get(mode, mode)
            text = f"engine {self._engines['tx'].name} cannot change its mode to {name}"
            raise UnsupportedError(text, errno.EOPNOTSUPP)
        reason = engine.supports(session, "tx")
        if session.suite.mac and session.suite.explicit(session.version) == 0:
            reason = "the IV is chained from record to record"
        if reason is not None:
            raise UnsupportedError(f"engine {engine.name}: {reason}", errno.EOPNOTSUPP)
        self.counters.switches(self.mode("tx"), engine.mode, session.suite)
        self._engines["tx"] = engine
        self.tx.replace_sealer(engine.sealer(session))
        self.tx.tally = self.counters.tally(session, mode)
        self._sessions["tx"] = session

    def disable_ifnet(self) -> bool:
        """Give the card up for good: it had to send too much again (ktls_disable_ifnet).

        Whether sealing goes on in software.
        """
        self.ifnet_disabled = True
        if self.mode("tx") == TCP_TLS_MODE_SW:
            return True
        try:
            self.switch_tx(TCP_TLS_MODE_SW)
        except UnsupportedError:
            self.counters.ifnet_disable_failed += 1
            return False
        self.counters.ifnet_disable_ok += 1
        return True

    def take_pending(self) -> list[Buffer]:
        """Records that were sealed and have not gone to TCP, to be sent before anything else."""
        wire, self.pending_wire = self.pending_wire, []
        return wire

    # The end

    def close(self) -> None:
        """The socket is no more. What MSG_MORE kept back was never sent; what was sealed still
        goes (`take_pending`)."""
        if self._closed:
            return
        self._closed = True
        self.open_record.clear()
        for direction, session in self._sessions.items():
            self.counters.closes(direction, self._engines[direction].mode, session.suite)
            session.wipe()
