"""The ways that a socket's data goes where kernel TLS in this process does not take a direction.

Per direction a daemon sets keys and then looks whether kernel TLS works (design case S2). Where it
does not, the daemon asks what to do: UMKTLS_TX_FALLBACK and UMKTLS_RX_FALLBACK. There are three
answers:

    refuse   the connection has to end; this is the answer unless somebody asked for another one
    bounce   the session stays in the daemon (S3, S4). It asks for UMKTLS_TX_BOUNCE or
             UMKTLS_RX_BOUNCE and gets one end of a socket pair; the kernel has the other end in
             TCP's place, and the daemon does SSL_write and SSL_read between the pair and TCP
    clear    the engine is `null`, which somebody must have named: a kernel without KERN_TLS (S9)

With the engine `toe` (S7) the daemon does not even get the TCP socket: see
`umktls.kernel.sockets.offload`.

The end of a bounced connection: the kernel ends its side of the TX pair and makes the DISCONNECT
upcall; the daemon sends what was in the pair, then close_notify, and closes. Where the peer is the
first, the daemon ends its side of the RX pair, and RPC sees the end of the stream.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import trio

from umktls.abi import freebsd, linux, rpctls
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.card import CardQueue
from umktls.kernel.sockets.hosttls import HostIntake
from umktls.kernel.sockets.lanes import (
    LONGEST_OF_CLIENT,
    MAX_RECORD,
    ClearIntake,
    CountingQueue,
    Intake,
    PlainIntake,
)
from umktls.kernel.sockets.offload import Offload, unread
from umktls.kernel.sockets.stream import SendQueue
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Engine, Route, route_of
from umktls.ktls.session import Direction
from umktls.rpc.xdr import Buffer, Struct

__all__ = ["WORDS", "Detoured", "Detours", "Means"]

WORDS: Mapping[Direction, str] = {"tx": "sending", "rx": "receiving"}

HOW = {Route.BOUNCE: "bounced", Route.CLEAR: "clear-text"}

# Which direction an option of kernel TLS is about.
OPTION_DIRECTIONS: Mapping[tuple[int, int], Direction] = {
    (freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_ENABLE): "tx",
    (freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_MODE): "tx",
    (freebsd.IPPROTO_TCP, freebsd.TCP_RXTLS_ENABLE): "rx",
    (freebsd.IPPROTO_TCP, freebsd.TCP_RXTLS_MODE): "rx",
    (linux.SOL_TLS, linux.TLS_TX): "tx",
    (linux.SOL_TLS, linux.TLS_RX): "rx",
    (linux.SOL_TLS, linux.TLS_TX_ZEROCOPY_RO): "tx",
    (linux.SOL_TLS, linux.TLS_RX_EXPECT_NO_PAD): "rx",
    (linux.SOL_TLS, linux.TLS_TX_MAX_PAYLOAD_LEN): "tx",
}


@dataclass(frozen=True, slots=True)
class Means:
    """What a host gives its sockets.

    engines: by direction.
    bounce: whether a direction that its engine does not take may be bounced.
    spawn: starts a task that lives as long as the host.
    card_threads: threads for engines that are a card.
    retransmitted_pct: how much of what a connection has sent it had to send again, in percent.
    """

    engines: Mapping[Direction, Engine]
    bounce: bool
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    card_threads: trio.CapacityLimiter
    retransmitted_pct: Callable[[socket.socket], float]


class Detoured(Protocol):
    """What the detours need of their socket, and change in it: where its data comes from
    (`intake`, None for TCP as it is) and goes to (`queue`, which is `card` where there is one)."""

    sock: socket.socket
    state: KtlsSocket
    name: str
    trace: Trace
    session: Struct | None
    intake: Intake | None
    card: CardQueue | None
    queue: SendQueue
    closed: bool

    def hang_up(self) -> None: ...


class Detours:
    """The detours of one socket. `sending`, where the machine's kernel TLS seals: whoever waits for
    it to take a record has this meanwhile."""

    sending: trio.Lock

    def __init__(self, sock: Detoured, means: Means) -> None:
        self._sock = sock
        self._means = means
        self._routes = {way: route_of(engine) for way, engine in means.engines.items()}
        self._bounced: dict[Direction, socket.socket] = {}
        self._offload: Offload | None = None
        self._server = False
        if self._route("tx") is Route.HOST:
            self.sending = trio.Lock()

    def _route(self, direction: Direction) -> Route:
        return self._routes[direction]

    def route(self, direction: Direction) -> Route:
        """How the direction's data goes."""
        return Route.BOUNCE if direction in self._bounced else self._route(direction)

    def engine(self, direction: Direction) -> str | None:
        """What makes the records of a direction, or carries its data instead; None before that."""
        if direction in self._bounced:
            return "bounce"
        if self._route(direction) is Route.CLEAR and self._sock.session is not None:
            return self._means.engines[direction].name
        return self._sock.state.engine_name(direction)

    def how(self, direction: Direction) -> str:
        """The word in the trace for how RPC messages go: "sealed", "bounced", "clear-text"."""
        return HOW.get(self.route(direction), "sealed")

    # ---- what the daemon asks

    def fallback(self, direction: Direction) -> str:
        """UMKTLS_TX_FALLBACK, UMKTLS_RX_FALLBACK: "refuse", "bounce" or "clear"."""
        route = self._route(direction)
        if route is Route.CLEAR:
            return "clear"
        return "bounce" if route is Route.BOUNCE or self._means.bounce else "refuse"

    def refuse_option(self, level: int, name: int) -> None:
        """A kernel without KERN_TLS knows none of its options: ENOPROTOOPT (tcp_usrreq.c). Where
        Linux lacks net/tls there is no level SOL_TLS, which is the same.

        The machine's own kernel takes nothing back (UMKTLS_LEFTOVER).
        """
        leftover = (level, name) == (rpctls.SOL_UMKTLS, rpctls.UMKTLS_LEFTOVER)
        if leftover and self._route("rx") is Route.HOST:
            raise UnsupportedError("this machine's kernel TLS takes no leftovers back")
        direction = OPTION_DIRECTIONS.get((level, name))
        if direction is not None and self._route(direction) is Route.CLEAR:
            raise UnsupportedError("this kernel has no KERN_TLS", errno.ENOPROTOOPT)

    def refuse_ulp(self, name: bytes) -> None:
        """TCP_ULP in a kernel without net/tls knows no name: ENOENT (tcp_ulp.c)."""
        known = "linux" in self._sock.state.personality.keys.interfaces
        if known and name and all(self._route(way) is Route.CLEAR for way in WORDS):
            raise UnsupportedError("this kernel has no net/tls", errno.ENOENT)

    def bounce(self, direction: Direction) -> socket.socket:
        """UMKTLS_TX_BOUNCE, UMKTLS_RX_BOUNCE: the daemon's end of a new pair.

        Raises `CallerError`: EPERM where this direction is not to be bounced, EALREADY where it has
        its keys, or its pair.
        """
        word = WORDS[direction]
        if self.fallback(direction) != "bounce":
            raise CallerError(f"{word} is not to be bounced here", errno.EPERM)
        enabled = self._sock.state.mode(direction) != freebsd.TCP_TLS_MODE_NONE
        if enabled or direction in self._bounced:
            raise CallerError(f"{word} has its way already", errno.EALREADY)
        near, far = socket.socketpair()
        near.setblocking(False)
        self._bounced[direction] = near
        if direction == "tx":
            self._replace_queue(near)
        else:
            self._sock.intake = PlainIntake(near)
        self._sock.trace.emit("bounce", self._sock.name, direction=word)
        return far

    def _replace_queue(self, sock: socket.socket) -> None:
        """Send clear data over `sock` from here on. Nothing may be queued."""
        self._sock.queue = CountingQueue(sock, self._means.spawn)

    # ---- a card that seals what is sent

    def card(self) -> CardQueue | None:
        """The card that seals what this socket sends; None where the engine is no card. Its task is
        started."""
        if self._route("tx") is not Route.CARD:
            return None
        means, sock = self._means, self._sock

        def seal(parts: Sequence[Buffer]) -> list[Buffer]:
            # An open record goes first. Who else touches it has the card's lock.
            return [*sock.state.flush(), *sock.state.tx.seal_message(parts)]

        queue = CardQueue(sock.sock, means.spawn, seal, means.card_threads, self._check_card)
        means.spawn(queue.run_card)
        return queue

    def card_seals(self) -> bool:
        """Whether the next message is for the card. After a switch it first finishes its own."""
        card, state = self._sock.card, self._sock.state
        return state.mode("tx") == freebsd.TCP_TLS_MODE_IFNET or (card is not None and card.busy)

    def _check_card(self) -> None:
        """Give the card up where the connection has to send too much again; end a connection for
        which it could not seal: whoever waits for what is lost need not send anything else."""
        state = self._sock.state
        if state.conditions.dropped or self._sock.queue.failed:
            self._sock.hang_up()
            return
        if state.mode("tx") != freebsd.TCP_TLS_MODE_IFNET:
            return
        percent = self._means.retransmitted_pct(self._sock.sock)
        if percent > state.sysctls.ifnet_max_rexmit_pct:
            done = state.disable_ifnet()
            self._sock.trace.emit(
                "card-disabled", self._sock.name, percent=round(percent, 1), done=done
            )

    def tx_switched(self) -> None:
        """TCP_TXTLS_MODE has changed who seals."""
        sock = self._sock
        mode = freebsd.TCP_TLS_MODE_NAMES[sock.state.mode("tx")]
        sock.trace.emit("tx-mode", sock.name, mode=mode, engine=sock.state.engine_name("tx"))

    # ---- a card that terminates TLS

    def hand_over(self, *, server: bool) -> int:
        """The real descriptor for the daemon that takes the socket: TCP's, or the card's."""
        self._server = server
        if self._route("rx") is not Route.OFFLOAD:
            return self._sock.sock.fileno()
        self._offload = Offload(self._sock, server=server)
        self._means.spawn(self._offload.send)
        self._means.spawn(self._offload.receive)
        return self._offload.descriptor

    def tx_enabled(self) -> None:
        """The keys for sending are set, and nothing was sealed yet."""
        if self._offload is not None:
            self._offload.tx_enabled()

    def rx_enabled(self) -> None:
        """The keys for receiving are set, and nothing was read yet."""
        if self._route("rx") is Route.HOST:
            self._sock.intake = HostIntake(self._sock.sock)
        if self._offload is not None:
            held = self._offload.held
            self._offload.rx_enabled(self._sock.state.rx)
            self._sock.trace.emit("held-back", self._sock.name, bytes=held)

    def waiting(self) -> int:
        """Bytes in the receive queue that nobody has read, as the daemon would see them."""
        card = self._offload
        visible = unread(self._sock.sock) if card is None else card.waiting
        return visible + self._sock.state.rx.waiting_bytes()

    def unread(self) -> int:
        """Bytes that have come from the peer and that nobody has read, wherever they are."""
        card = self._offload
        come = unread(self._sock.sock) if card is None else card.held + card.waiting
        return come + self._sock.state.rx.waiting_bytes()

    def flush(self) -> None:
        """Have everything on its way that the daemon has written by itself."""
        if self._offload is not None:
            self._offload.flush()

    # ---- the connection's life

    def go_clear(self, dropped: Callable[[int], None]) -> None:
        """The daemon says that the handshake is done: what has the null engine goes in clear.

        `dropped` is told the length of each sealed record in front of clear data.
        """
        sock = self._sock
        for direction, word in WORDS.items():
            if self._route(direction) is not Route.CLEAR:
                continue
            warning = getattr(self._means.engines[direction], "warning", "goes in clear")
            sock.trace.emit("warning", sock.name, reason=f"{word}: {warning}")
            if direction == "tx":
                self._replace_queue(sock.sock)
            else:
                longest = LONGEST_OF_CLIENT if self._server else MAX_RECORD
                sock.intake = ClearIntake(sock.sock, dropped, longest)

    async def finish_sending(self) -> None:
        """Where sending is bounced, tell the daemon that nothing more will come, whoever gives up
        waiting for what was sent before."""
        near = self._bounced.get("tx")
        if near is not None and not self._sock.closed:
            try:
                await self._sock.queue.emptied()
            finally:
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_WR)

    def shut(self) -> None:
        """End both directions of each pair: the connection ends, whatever the daemon still does."""
        for near in self._bounced.values():
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._offload is not None:
            self._offload.close()
        for near in self._bounced.values():
            trio.lowlevel.notify_closing(near)
            near.close()
