"""The daemons of one direction, and the CONNECTs that wait for one of them.

Theory of operation
===================

A CONNECT goes to one daemon, also where several listen. FreeBSD 15 sends each request to all
listeners of the group, and the first that takes the socket has it; the others have been woken for
nothing and answer that there is no socket. Here the kernel chooses: the daemon with the fewest
CONNECTs under way, and among equals the one that made the last session with that address, which
alone has the tickets (a server their keys) to resume it by; otherwise each in its turn.
HANDLERECORD, DISCONNECT and REKEY go to the daemon that made the session, which alone has its TLS
state.

A daemon gets no more CONNECTs at once than its limit: 1 in version 1 of the transport, a setting
in version 2. A thousand connections at once make a queue here and no thousand threads there. The
turn goes round among networks and addresses (`kernel/ground/peers.py`), and on a server no address
gets more than three quarters of all places, no network more than seven eighths: who begins a
thousand handshakes and ends none keeps nobody else waiting.

An upcall's deadline counts from when it is sent. The time in the queue is bounded, too: every
CONNECT that is out ends at its deadline, and the queue has to move. If for a little more than an
upcall's time nobody gets a turn, those that wait fail. (A little more, so that peers who keep all
places busy until the deadline cost nobody else.) A connection whose peer has hung up meanwhile
costs no daemon anything: it is taken out when its turn comes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import TYPE_CHECKING

import trio

from umktls.abi import rpctls
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.ground.behind import Behind
from umktls.kernel.ground.events import Trace
from umktls.kernel.ground.peers import Crowd, FairQueue, Who, who
from umktls.kernel.owners.hangup import hung_up
from umktls.kernel.owners.request import EVENT_OF, ConnectionGone, DaemonGone, UpcallTimeout
from umktls.kernel.owners.upcalls import DaemonHandle
from umktls.upcall.states import Upcall, UpcallEvent

if TYPE_CHECKING:
    from umktls.kernel.sockets.ktls_socket import KernelSocket

__all__ = ["PATIENCE", "Daemons", "address_of"]

# How many times an upcall's time the queue may stand still.
PATIENCE = 1.2
# Of so many peers' addresses it is known which daemon made the last session.
REMEMBERED = 4096


@dataclass(eq=False)
class Turn:
    """A CONNECT in the queue; it has its turn when `called` is set, with a daemon or an error."""

    sock: KernelSocket
    since: float
    called: trio.Event = field(default_factory=trio.Event)
    daemon: DaemonHandle | None = None
    error: UmktlsError | None = None

    @property
    def who(self) -> Who:
        return who(address_of(self.sock))

    def call(self, daemon: DaemonHandle | None, error: UmktlsError | None = None) -> None:
        self.daemon, self.error = daemon, error
        self.called.set()


class Daemons:
    """The daemons that serve upcalls of program `name`.

    `advice` is what to do when there is none; `left` is called with each that goes. With
    `patient`, CONNECTs wait for one to come, as in FreeBSD 15, whose kernel does not know whether
    anybody listens.
    """

    def __init__(
        self,
        name: str,
        trace: Trace,
        advice: str,
        left: Callable[[DaemonHandle], None],
        *,
        patient: bool = False,
    ) -> None:
        self.name = name
        self._left = left
        self.handles: list[DaemonHandle] = []
        self.came = trio.Event()
        self._trace = trace
        self._advice = advice
        self._patient = patient
        self._queue: FairQueue[Turn] = FairQueue()
        self._out = Crowd()  # CONNECTs that are with a daemon
        self._moved = 0.0
        self._next = 0
        self._last_with: dict[str, DaemonHandle] = {}
        self._starter: int | None = None

    # ---- coming and going

    def add(self, handle: DaemonHandle) -> None:
        """A daemon registers.

        Those of version 2 add up. A client daemon of version 1 replaces all before it, and is
        replaced; a server daemon of version 1 replaces the others, unless somebody has said that
        there will be several (`several`): then they are 16 at most. Raises `CallerError` ENXIO.
        """
        if self.name == "rpctlscd":
            self.drop(lambda old: 1 in (old.version, handle.version))
        elif handle.version == 1 and self._starter is None:
            self.drop(lambda old: old.version == 1)
        registered = sum(old.version == 1 for old in self.handles)
        if handle.version == 1 and registered >= rpctls.RPCTLS_SRV_MAXNPROCS:
            raise CallerError(
                f"{self.name}: all {rpctls.RPCTLS_SRV_MAXNPROCS} places are taken", errno.ENXIO
            )
        handle.has_room = self._serve_queue
        self.handles.append(handle)
        self.came.set()
        self.came = trio.Event()
        self._trace.emit(
            "daemon-registered",
            daemon=handle.name,
            pid=handle.pid,
            path=handle.path,
            version=handle.version,
        )
        self._serve_queue()

    def several(self, starter: int) -> None:
        """SRVSTARTUP by the process `starter`: none of those before it is a daemon any more, and
        those that register add up, until that process says SRVSHUTDOWN or ends."""
        self.drop(lambda old: True)
        self._starter = starter

    def shut_down(self, pid: int) -> None:
        """CLSHUTDOWN or SRVSHUTDOWN: the process is no daemon any more. Where it is who has said
        that there will be several, neither are they."""
        self.drop(lambda handle: pid in (handle.pid, self._starter))
        self.ended(pid)

    def ended(self, pid: int) -> None:
        """The process has ended, if it has not shut down before."""
        if self._starter == pid:
            self._starter = None
        self.drop(lambda handle: handle.pid == pid)

    def drop(self, gone: Callable[[DaemonHandle], bool]) -> None:
        """Take out the daemons for which `gone` is true, and end their upcalls."""
        for handle in [handle for handle in self.handles if gone(handle)]:
            self.handles.remove(handle)
            handle.has_room = lambda: None
            handle.close()
            self._last_with = {a: h for a, h in self._last_with.items() if h is not handle}
            self._trace.emit("daemon-unregistered", daemon=handle.name, pid=handle.pid)
            handle.gone.set()
            self._left(handle)
        if not self.handles and not self._patient:
            for turn in self._queue.clear():
                turn.call(None, self._nobody())

    def of(self, pid: int) -> Iterator[DaemonHandle]:
        """The daemons of one process."""
        return (handle for handle in self.handles if handle.pid == pid)

    # ---- CONNECTs

    async def turn(self, sock: KernelSocket, life: Upcall, seconds: float) -> DaemonHandle:
        """Wait for a daemon that may take `sock` on; `occupied` is to follow at once.

        `seconds` is an upcall's time. Raises `DaemonGone` when there is no daemon, `UpcallTimeout`
        when the queue does not move, `ConnectionGone` when the peer has; the upcall has
        ended then.
        """
        # Whoever waits has no share left, or there is no room: nobody is overtaken.
        handle = self._free(sock)
        if handle is not None:
            self._occupy(handle, sock)
            return handle
        event = UpcallEvent.CANCEL
        try:
            if not self.handles and not self._patient:
                raise self._nobody()
            return await self._queued(Turn(sock, trio.current_time()), seconds)
        except (UmktlsError, trio.Cancelled) as error:
            event = EVENT_OF.get(type(error), event)
            life.on(event)
            raise

    def occupied(self, handle: DaemonHandle, sock: KernelSocket) -> Behind:
        """Inside the block a CONNECT about `sock` has a place of `handle`, which is free again
        behind it."""
        return Behind(self._vacate, handle, sock)

    def _occupy(self, handle: DaemonHandle, sock: KernelSocket) -> None:
        handle.places += 1
        self._out.add(who(address_of(sock)))

    def _vacate(self, handle: DaemonHandle, sock: KernelSocket) -> None:
        handle.places -= 1
        self._out.add(who(address_of(sock)), -1)
        self._serve_queue()

    def _has_share(self, one: Who) -> bool:
        """Whether an address, and its network, may have one place more: see the head of this
        file. A client's own connections may have all."""
        if self.name == "rpctlscd":
            return True
        total = sum(handle.limit for handle in self.handles)
        of_network, of_address = self._out.of(one)
        return of_network < total - total // 8 and of_address < total - total // 4

    async def _queued(self, turn: Turn, seconds: float) -> DaemonHandle:
        self._queue.add(turn.who, turn)
        self._trace.emit("queued", turn.sock.name, daemon=self.name, waiting=len(self._queue))
        try:
            while not turn.called.is_set():
                # Where nobody listens, it is the upcall's own time that runs.
                patience = PATIENCE * seconds if self.handles else seconds
                ends = max(turn.since, self._moved) + patience
                if ends <= trio.current_time():
                    raise self._stuck(patience)
                with trio.move_on_at(ends):
                    await turn.called.wait()
        except BaseException:
            self._leave(turn)
            raise
        if turn.daemon is None:
            assert turn.error is not None
            raise turn.error
        return turn.daemon

    def _leave(self, turn: Turn) -> None:
        if turn.daemon is not None:
            self._vacate(turn.daemon, turn.sock)
        else:
            self._queue.remove(turn.who, turn)

    def _serve_queue(self) -> None:
        """Whose turn it is, as long as there is room."""
        while (found := self._next_turn()) is not None:
            turn, handle = found
            if hung_up(turn.sock.sock):
                text = f"{turn.sock.peer} hung up before a daemon had time for it"
                turn.call(None, ConnectionGone(text))
                continue
            self._moved = trio.current_time()
            self._occupy(handle, turn.sock)
            turn.call(handle)

    def _next_turn(self) -> tuple[Turn, DaemonHandle] | None:
        """Take the next one out of the queue for whom there is room, with the daemon that has it.

        Nobody is looked at as long as no daemon has any.
        """
        if not any(handle.room for handle in self.handles):
            return None
        for one, turn in self._queue.turns():
            handle = self._free(turn.sock)
            if handle is not None:
                return self._queue.take(one), handle
        return None

    def made_session(self, sock: KernelSocket, handle: DaemonHandle) -> None:
        """The CONNECT about `sock` has succeeded: the next from there is best given to `handle`."""
        address = address_of(sock)
        self._last_with.pop(address, None)
        self._last_with[address] = handle
        if len(self._last_with) > REMEMBERED:
            del self._last_with[next(iter(self._last_with))]

    def _free(self, sock: KernelSocket) -> DaemonHandle | None:
        """The daemon with room that `sock` is given to: see the head of this file."""
        if not self._has_share(who(address_of(sock))):
            return None
        if len(self.handles) == 1:
            return self.handles[0] if self.handles[0].room else None
        self._next += 1
        start = self._next % max(1, len(self.handles))
        with_room = [h for h in self.handles[start:] + self.handles[:start] if h.room]
        last = self._last_with.get(address_of(sock))
        # An agent of Linux's upcall has been started on purpose: it goes before daemons.
        return min(with_room, key=lambda h: (h.attends, h.places, h is not last), default=None)

    def _nobody(self) -> DaemonGone:
        return DaemonGone(f"no {self.name} is registered with this host {self._advice}")

    def _stuck(self, seconds: float) -> UpcallTimeout:
        who = ", ".join(f"process {h.pid} has {h.places} CONNECTs" for h in self.handles)
        return UpcallTimeout(
            f"no {self.name} had time for this connection, nor for any other in the last "
            f"{seconds:g} s ({who or 'there is none'}); an answer to an earlier upcall is missing, "
            "or more daemons are needed (-N)"
        )


def address_of(sock: KernelSocket) -> str:
    """The address of the peer, without its port."""
    return sock.peer.rpartition(":")[0]
