"""A client's connection to a front: let in by what it has shown, then carried to a backend.

Theory of operation
===================

                 records, sealed                    the same records, in clear
    client  <=====================>  Carried  <=======================>  backend
                                        |  <------------------------->  its MOUNT

Records are passed on as they come, both ways, in pieces (umktls.rpc.passing): a large message is
never there as a whole. Nothing is read while what was read before has not been taken by the other
side's TCP, so that a connection costs one buffer for each direction that moves, and a slow side
slows the other one down. What the messages are the front does not know: any program, any version,
calls of the backend to the client (the back channel of NFS 4.1) and the replies to them.

Of each message it looks at the head, for four things. An AUTH_TLS probe is never passed on: the
front is who answers it. Before a connection is let in, nothing passes but what real clients do in
clear in front of their mount: the NULL procedure, and MOUNT, unless that is to come in TLS as well
(RFC 9289 leaves it to the server). Everything else is answered by AUTH_TOOWEAK, which has clients
say why, instead of coming again and again. Calls of MOUNT go to a server of its own if there is
one: so one address and one port is all that a client has to know (`mountport=` is the same), which
is why this is done by program number and not by a second port. Its replies go between those of NFS.
And calls and replies are counted.

The end. A client that ends its side is followed: the backend gets the end, and what it still says
is passed on. A backend that ends, or breaks, ends the client's connection at once, which is what
has an NFS client make a new one. A record that was under way then is cut off, as it would have been
without a front.
"""

from __future__ import annotations

import errno
from contextlib import aclosing, suppress
from typing import Any, Protocol

import trio

from umktls.errors import PeerError, UmktlsError
from umktls.front.backends import Backend, Backends, Place
from umktls.front.clients import Clients
from umktls.front.lane import Lane
from umktls.front.proxyheader import Behind, proxy_header
from umktls.front.through import Stock, Through
from umktls.kernel.ground.bell import Bell
from umktls.kernel.ground.turns import Turn
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.incoming import CALL_LIMIT, RETIRE_SECONDS, Incoming
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.rpc.message import AuthFlavor, AuthStat, Call, MsgType, parse_untrusted
from umktls.rpc.passing import Follower, Head, Piece
from umktls.rpc.record import RecordReader, mark
from umktls.rpc.xdr import Buffer

__all__ = ["Carried"]

MOUNT_PROGRAM = 100005
# A message that is looked at as a whole: a call of MOUNT, or one that is refused.
WHOLE_LIMIT = 64 * 1024
# A NULL call with AUTH_NONE has no more than its header.
PING_BYTES = 40
# So long a backend may go on talking to a client that has ended its side.
LINGER_SECONDS = 15.0


class Shared(Protocol):
    """What all connections of a front have in common."""

    clients: Clients
    backends: Backends
    mount_tls: bool
    offer_tls: bool
    stock: Stock


class Carried(Incoming):
    """See the head of this file."""

    def __init__(
        self, host: Host, sock: KernelSocket, address: tuple[Any, ...], front: Shared
    ) -> None:
        self._through = Through(front.stock)
        super().__init__(host, sock, address, self._through)
        sock.rpc.in_pieces = True
        self._front = front
        self._up = Follower()
        self._whole = RecordReader(WHOLE_LIMIT)
        self._passing = False  # of the message that arrives: whether it goes to the backend as is
        self._calling = False  # whether it is a call
        self._admitted = False
        self._unanswered = 0  # of the calls that were passed on as a whole
        self._answered = Bell()
        self._reading = trio.CancelScope()
        self._backend: Backend | None = None
        self._nfs: Lane | None = None
        self._mount: Lane | None = None
        self._mount_calls = 0
        # One message to the client at a time.
        self._speaking = trio.Semaphore(1)
        self._replying = False  # of the message that comes from the backend: whether it is a reply
        self._down_over = trio.Event()
        self._leaving = False  # nothing more is read from the client

    def retire(self, reason: str) -> None:
        """As `Incoming.retire`: nothing more is read, and what was passed on is answered."""
        self._retired = True
        self._ending = reason
        self._reading.cancel()

    def look_again(self) -> None:
        """The rules have changed: end the connection if it may not come in any more."""
        if self._admitted and (objection := self._objection()) is not None:
            self.end(f"the rules have changed: {objection}")

    def _objection(self) -> str | None:
        """Why it is not let in; None if it is."""
        if self.disabled:
            return "the handshake daemon has its calls rejected"
        return self._front.clients.objection(self)

    async def serve(self) -> None:
        """Carry until the connection ends."""
        if not self._front.clients.knows(self.address):
            self.refused("the front", "no rule is for its address")
            self.sock.close("no rule is for the client's address")
            return
        await self.live(self._serve)

    async def _serve(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with self._reading:
                    await self.sock.rpc.pump(self._through, self._take, self.control)
                self._leaving = True
                await self._last_words()
                nursery.cancel_scope.cancel()
        finally:
            for lane in (self._nfs, self._mount):
                if lane is not None:
                    lane.close()
            if self._backend is not None:
                self._backend.leave(self)

    async def _last_words(self) -> None:
        """Nothing more is read from the client: what is still to be said to it."""
        if self._retired:
            with trio.move_on_after(RETIRE_SECONDS):
                while self._unanswered or self._mount_calls > 0:
                    await self._answered.wait()
        elif self._nfs is not None:
            for lane in (self._nfs, self._mount):
                if lane is not None:
                    lane.end_sending()
            with trio.move_on_after(LINGER_SECONDS):
                await self._down_over.wait()
                while self._mount_calls > 0:
                    await self._answered.wait()

    # ---- from the client

    async def _take(self, data: memoryview) -> None:
        """The next piece of the client's stream; returns when it may be forgotten."""
        self.last = trio.current_time()
        onward: list[Buffer] = []
        pieces = self._up.feed(data)
        for number, piece in enumerate(pieces, 1):
            if piece.head is not None:
                self._begins(piece.head)
            if self._passing:
                onward.append(piece.data)
                self._unanswered += piece.ends and self._calling
                continue
            if onward:
                await self._pass_on(onward)
                onward = []
            await self._look_at(piece, number == len(pieces))
        if onward:
            await self._pass_on(onward)

    def _begins(self, head: Head) -> None:
        """A message: whether it is passed on unseen."""
        self._calling = head.kind == MsgType.CALL
        if self._calling:
            self.sock.rpc.calls += 1
            if head.flavor == AuthFlavor.AUTH_TLS:
                self._passing = False
                return
        self._admitted = self._admitted or self._objection() is None
        self._passing = self._admitted and not self._is_for_mount(head)

    def _is_for_mount(self, head: Head) -> bool:
        if head.kind != MsgType.CALL or head.program != MOUNT_PROGRAM:
            return False
        backend = self._backend
        servers = [backend.server] if backend else [one.server for one in self._front.backends]
        return any(server.mount is not None for server in servers)

    async def _look_at(self, piece: Piece, newest: bool) -> None:
        """A piece of a message that is put together here."""
        self._whole.feed(piece.data)
        for message in self._whole.messages():
            call = parse_untrusted(message)
            if not isinstance(call, Call):
                raise PeerError("a client sent an RPC reply to nobody", errno.EPROTO)
            if call.credential.flavor == AuthFlavor.AUTH_TLS:
                await self._probed(call, newest and self._up.idle)
            elif self._admitted or self._may_come_early(call, len(message)):
                await self._pass_whole(call, message)
            else:
                self._turn_away(call)
            await self.sock.rpc.flushed()

    def _may_come_early(self, call: Call, size: int) -> bool:
        """Before the connection is let in: see the head of this file."""
        if call.program == MOUNT_PROGRAM:
            return not self._front.mount_tls
        bare = call.credential.flavor == AuthFlavor.AUTH_NONE and size <= PING_BYTES
        return call.procedure == 0 and bare

    def _turn_away(self, call: Call) -> None:
        self.refused("a backend", self._objection() or "it is not let in")
        self._reject(call, AuthStat.AUTH_TOOWEAK)

    async def _probed(self, call: Call, quiet: bool) -> None:
        if self._backend is not None and not self.tls:
            # The backend knows it as one in clear.
            raise PeerError("an AUTH_TLS probe behind calls in clear", errno.EPROTO)
        if not quiet and not self.tls:
            raise PeerError("bytes between the AUTH_TLS probe and the answer to it", errno.EPROTO)
        await self._probe(call, self._front.offer_tls)
        self._through.direct = self.sock.session is not None

    # ---- to the backend

    async def _pass_whole(self, call: Call, message: memoryview) -> None:
        if self.sock.session is None:
            self._comes_in_clear()
        data: list[Buffer] = [mark(len(message)), message]
        if call.program != MOUNT_PROGRAM or (await self._at_backend()).server.mount is None:
            self._unanswered += 1
            await self._pass_on(data)
            return
        if self._mount is None:
            where = (await self._at_backend()).server.mount
            assert where is not None
            self._mount = await self._new_lane(where)
            self._nursery.start_soon(self._carry_mount, self._mount)
        self._mount_calls += 1
        await self._mount.send(data)

    async def _pass_on(self, data: list[Buffer]) -> None:
        await self._at_backend()
        assert self._nfs is not None
        await self._nfs.send(data)

    async def _at_backend(self) -> Backend:
        """The backend, which is chosen, and connected to, when it is first needed."""
        if self._backend is None:
            backend, sock = await self._front.backends.reach(self)
            self._backend = backend
            self._nfs = Lane(str(backend), sock, self._nursery, self._front.stock)
            self._tell(backend)
            await self._nfs.send([self._introduction()])
            self._nursery.start_soon(self._carry_down, self._nfs)
        return self._backend

    def _tell(self, backend: Backend) -> None:
        if self.sock.session is None:
            self._comes_in_clear()
        self._proven = self._proven or self._admitted
        certificate = self.certificate
        who = "TLS, no certificate" if self.tls else "in clear"
        if certificate is not None:
            who = certificate.subject.decode(errors="replace")
        self.sock.rpc.backend = str(backend)
        fields = {"peer": self.sock.peer, "who": who, "backend": str(backend)}
        self.host.trace.emit("carried", self.sock.name, **fields)

    async def _new_lane(self, where: Place) -> Lane:
        sock = await self._front.backends.connect(where)
        lane = Lane(f"{self._backend} (MOUNT at {where})", sock, self._nursery, self._front.stock)
        await lane.send([self._introduction()])
        return lane

    def _introduction(self) -> bytes:
        """Who the client is, for a backend that wants to be told."""
        facts, certificate = self.sock.tls, self.certificate
        client = Behind(
            self.address,
            self._local(),
            facts.version if facts is not None else "TLS" if self.tls else "",
            facts.suite if facts is not None else "",
            certificate.subject if certificate is not None else b"",
        )
        return proxy_header(self._front.backends.policy.proxy, client)

    def _local(self) -> tuple[Any, ...]:
        name = self.sock.sock.getsockname()
        return name if isinstance(name, tuple) else ()

    # ---- from the backend

    async def _carry_down(self, lane: Lane) -> None:
        """All that the backend says, until it ends the connection, which ends the client's."""
        reason = f"the backend {self._backend} closed the connection"
        try:
            await self._down(lane)
        except UmktlsError as error:
            reason = str(error)
        with suppress(UmktlsError), trio.move_on_after(LINGER_SECONDS):
            await self.sock.rpc.flushed()
        self._down_over.set()
        if not self._leaving:
            self.end(reason)

    async def _down(self, lane: Lane) -> None:
        follower, turn, speaking = Follower(), Turn(), False
        async with aclosing(lane.chunks()) as chunks:
            async for data in chunks:
                self.last = trio.current_time()
                pieces = follower.feed(data)
                if not pieces:
                    continue
                if not speaking:
                    await self._speaking.acquire()
                    speaking = True
                self.sock.rpc.send([piece.data for piece in pieces])
                await self.sock.rpc.flushed()
                self._count(pieces)
                if follower.whole:
                    self._speaking.release()
                    speaking = False
                await turn.did(len(data))

    def _count(self, pieces: list[Piece]) -> None:
        """These have gone to the client. A reply counts with its end: who waits for the last one
        then ends the connection."""
        for piece in pieces:
            if piece.head is not None:
                self._replying = piece.head.kind == MsgType.REPLY
            if piece.ends and self._replying:
                self.sock.rpc.replies += 1
                self._unanswered = max(0, self._unanswered - 1)
        self._answered.ring()

    async def _carry_mount(self, lane: Lane) -> None:
        """The replies of a MOUNT server of its own; it may end the connection when it owes none."""
        reader = RecordReader(CALL_LIMIT)
        try:
            async with aclosing(lane.chunks()) as chunks:
                async for data in chunks:
                    reader.feed(data)
                    for message in reader.messages():
                        async with self._speaking:
                            self._send([message])
                            await self.sock.rpc.flushed()
                        self._mount_calls -= 1
                        self._answered.ring()
            reason = "it closed the connection"
        except UmktlsError as error:
            reason = str(error)
        self._mount = None
        lane.close()
        if self._mount_calls:
            self.end(f"backend {self._backend}, MOUNT: {reason}")
