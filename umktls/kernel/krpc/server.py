"""The server host: RPC services on a TCP port, with TLS by upcall where a client asks for it.

The services are given (see `umktls.nfsd`); this executes the calls of a connection, in clear and
sealed. What every connection has is in `umktls.kernel.krpc.incoming`, how it comes to be in
`umktls.kernel.krpc.serverhost`.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from umktls.errors import PeerError, UmktlsError
from umktls.kernel.ground.dwelling import Dwell
from umktls.kernel.ground.refusals import NoThread, first_text
from umktls.kernel.host.host import Host
from umktls.kernel.krpc.incoming import Incoming
from umktls.kernel.krpc.listening import mount_listeners, port_of
from umktls.kernel.krpc.serverhost import Listening as Listening
from umktls.kernel.krpc.serverhost import ServerConfig as ServerConfig
from umktls.kernel.krpc.serverhost import boot_listening
from umktls.kernel.krpc.telling import tell_received
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.nfs.program import MOUNT3
from umktls.rpc.message import AuthFlavor, AuthStat, Call, parse_untrusted
from umktls.rpc.replycache import Replies
from umktls.rpc.server import Dispatcher, Job, Service
from umktls.rpc.xdr import Buffer

__all__ = ["Connection", "Listening", "ServerConfig", "boot_server"]

# Jobs of one connection that run in threads at a time (fsync and the like). While one more waits
# for its turn, the connection is not read.
BLOCKING_JOBS = 8
# Asked for with every call: as plain numbers, since a look into an enumeration costs ten times as
# much.
AUTH_NONE, AUTH_SYS = int(AuthFlavor.AUTH_NONE), int(AuthFlavor.AUTH_SYS)
AUTH_TLS = int(AuthFlavor.AUTH_TLS)
# What a job in a thread costs besides its arguments.
JOB_BYTES = 16 * 1024
# Where there is no thread for one, the next look is so many seconds later.
THREAD_SECONDS = 0.2


class Connection(Incoming):
    """One client's connection; the services see it as `CallContext.peer`."""

    def __init__(self, host: Host, sock: KernelSocket, address: tuple[Any, ...]) -> None:
        super().__init__(host, sock, address)
        self._jobs = trio.Semaphore(BLOCKING_JOBS)

    async def serve(self, dispatcher: Dispatcher, offer_tls: bool) -> None:
        """Serve until the connection ends."""
        await self.live(partial(self._serve, dispatcher, offer_tls))

    async def _serve(self, dispatcher: Dispatcher, offer_tls: bool) -> None:
        deliver = partial(self._deliver, dispatcher, offer_tls)
        try:
            await self.sock.rpc.pump(self._reader, deliver, self.control, self._share.receive)
        finally:
            if self._jobs.value < BLOCKING_JOBS:
                await self._jobs_over()

    async def _jobs_over(self) -> None:
        """Wait for what runs in threads, whoever gives up waiting. A nursery for each connection,
        most of which have no such job, would do it too, and costs a handshake's fiftieth."""
        with trio.CancelScope(shield=True):
            for _ in range(BLOCKING_JOBS):
                await self._jobs.acquire()

    async def _deliver(self, dispatcher: Dispatcher, offer_tls: bool, message: memoryview) -> None:
        held = self._share.arrived()
        try:
            call = self._call_in(message)
            if call.credential.flavor == AUTH_TLS:
                await self._probe(call, offer_tls)
            else:
                job = self._answer(dispatcher, call)
                if job is not None:
                    held = await self._room_for_job(held, len(message) + JOB_BYTES)
                    self.host.spawn(self._run_in_thread, job, held)
                    held = 0
        finally:
            if held:
                self.host.requests.give(held)
        if self.sock.queue.size or self.sock.card is not None or self.sock.rpc.holding:
            await self.sock.rpc.drained()
            if self.sock.queue.size and self.host.unread.full:
                await self._all_read()

    async def _room_for_job(self, held: int, size: int) -> int:
        """Wait for a job's place and memory, of which so much is `held` already; how much is."""
        if self._jobs.value:  # no turn of the loop for it
            self._jobs.acquire_nowait()
        else:
            await self._jobs.acquire()
        try:
            return held or await self.host.requests.take(size)
        except BaseException:
            self._jobs.release()
            raise

    def _call_in(self, message: memoryview) -> Call:
        self.last = self._now()
        call = parse_untrusted(message)
        if not isinstance(call, Call):
            raise PeerError("a client sent an RPC reply", errno.EPROTO)
        if self.host.trace.close:
            tell_received(self.host.trace, self.sock.name, call, len(message))
        self.sock.rpc.calls += 1
        return call

    def _answer(self, dispatcher: Dispatcher, call: Call) -> Job | None:
        """Answer a call here and now, or return the job that does it in a thread."""
        flavor = call.credential.flavor
        if flavor != AUTH_NONE and self.disabled:
            # As FreeBSD: AUTH_NONE is good enough for the NULL procedure and little else.
            self._reject(call, AuthStat.AUTH_REJECTEDCRED)
            return None
        if self.sock.session is None:
            self._comes_in_clear()
        work = dispatcher.dispatch(call, self)
        if not isinstance(work, Job):
            self._send(work)
            return None
        self._proven = self._proven or flavor == AUTH_SYS
        reply = work.run_briefly() if work.lane else work.run()
        if reply is None:
            return work
        self._send(reply)
        return None

    async def _run_in_thread(self, job: Job, held: int) -> None:
        # Also when the connection is gone: the client repeats the call on another one, where it
        # waits for this reply.
        self._under_way += 1
        try:
            with trio.CancelScope(shield=True):
                self._send(await self._reply_from_thread(job))
        except (OSError, MemoryError, UmktlsError) as error:
            self.end(first_text(error))
        finally:
            self.host.requests.give(held)
            self._jobs.release()
            self._under_way -= 1
            self.last = self._now()

    async def _reply_from_thread(self, job: Job) -> list[Buffer]:
        """The reply; where the system has no thread now, as soon as it has."""
        told = False
        while True:
            try:
                return await self.host.workers.run(self.who, job.lane, job.run)
            except NoThread as error:
                if not told:
                    self.host.trace.emit("warning", self.sock.name, reason=f"calls wait: {error}")
                    told = True
            await trio.sleep(THREAD_SECONDS)


@asynccontextmanager
async def boot_server(
    config: ServerConfig,
    services: Iterable[Service],
    replies: Replies | None = None,
    dwell: Dwell | None = None,
) -> AsyncIterator[Listening]:
    """A server host that executes calls inside the block. At the port for MOUNT, only its.
    `replies`: those that are kept for calls that are repeated; None: the host has them for itself.
    `dwell`: how calls are waited for shortly, where this loop is all that the process does.

    Raises `UmktlsError` when it cannot come up.
    """
    every = list(services)
    mount = [service for service in every if service.program.number == MOUNT3.number]

    async def attend(
        dispatcher: Dispatcher, listening: Listening, sock: KernelSocket, address: tuple[Any, ...]
    ) -> None:
        connection = Connection(listening.host, sock, address)
        sock.rpc.dwell = dwell
        with listening.admission.present(connection):
            await connection.serve(dispatcher, config.offer_tls)

    async with mount_listeners(config.hosts, config.mount_port) as listeners:
        if listeners:
            facts = {**config.facts, "mount_port": port_of(listeners)}
            config = replace(config, facts=facts)
        async with boot_listening(config, partial(attend, Dispatcher(every, replies))) as listening:
            listening.mount_listeners = listeners
            listening.attend_mount = partial(attend, Dispatcher(mount))
            listening.accept(listeners, listening.attend_mount)
            yield listening
