"""A netlink socket of a program, between a program and a host that are played: descriptors that
have other numbers on either side, answers and their ends, and what goes wrong."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from tests.run.played_host import ACCEPT, DONE, FAMILY, attribute, generic, message, u32
from tests.run.played_host import error as error_about
from umktls.kernel.ground.events import Trace
from umktls.run import netlink
from umktls.run.agency import Agency
from umktls.run.genl import command_of, done_message, sockfd_untrusted, with_sockfd
from umktls.run.netlink import NetlinkSocket
from umktls.run.reactor import Reactor
from umktls.upcall import genl
from umktls.upcall.genl import error_of_untrusted
from umktls.upcall.netlink import Family, Message, encode_message
from umktls.upcall.syscalls import CloseArgs

REQUEST, ACK = 1, 4
HOSTS_NUMBER = 7


class PlayedKernel:
    """The system-call connection of a host that does what it is asked. `sock` has its end."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._sock, self._far = socket.socketpair()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        self._far.close()

    def call(self, args: Any) -> tuple[Any, list[int]]:
        self.calls.append(args)
        return None, []

    def netlink_socket(self) -> tuple[int, socket.socket]:
        raise NotImplementedError


class World:
    """A program's socket: `program` is its end, `host` the host's, which answers by hand."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.kernel = PlayedKernel()
        family = Family(FAMILY, "handshake", {"tlshd": 0x24})
        self.agency = Agency(self.kernel, family, Trace("run-1", "run"), self.reactor)
        self.host, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end, self.program = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.setblocking(False)
        self.program.setblocking(False)
        inode = os.fstat(self.program.fileno()).st_ino
        self.sock = NetlinkSocket(self.agency, 5, theirs, end, inode, socket.SOCK_RAW)
        self.sock.port = 4711
        self.put: list[int] = []

    def putting(self, descriptor: int) -> int:
        """For the caller's table: where all of it ends up under 42."""
        self.put.append(descriptor)
        return 42

    async def asked(self) -> Message:
        """The next request that has come to the host."""
        await trio.lowlevel.wait_readable(self.host)
        return only(self.host.recv(1 << 16))

    def answer(self, about: Message, *replies: bytes, error: int = 0, beside: int = -1) -> None:
        for reply in replies:
            body = message(FAMILY, about.seq, about.pid, reply)
            socket.send_fds(self.host, [body], [beside] if beside >= 0 else [])
        self.host.send(error_about(encode_message(about), error))

    def received(self) -> list[Message]:
        found = []
        while True:
            try:
                found.append(only(self.program.recv(1 << 16)))
            except BlockingIOError:
                return found


@asynccontextmanager
async def playing() -> AsyncIterator[World]:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.reactor.run)
        nursery.start_soon(world.sock.run)
        try:
            with trio.fail_after(30):
                yield world
        finally:
            nursery.cancel_scope.cancel()
            world.agency.close()
            world.program.close()
            world.host.close()


def only(datagram: bytes) -> Message:
    (found,) = genl.messages_untrusted(datagram)
    return found


def request(command: int, *attributes: bytes, flags: int = REQUEST, seq: int = 9) -> bytes:
    return message(FAMILY, seq, 0, generic(command, *attributes), flags)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    with ours, peer:
        yield ours


async def accept(world: World, tcp: socket.socket, put: Any, flags: int = REQUEST) -> None:
    """An ACCEPT of the program, and the host's answer with that socket."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.sock.sent, request(ACCEPT, u32(2, 1), flags=flags), 1, put)
        asked = await world.asked()
        assert (asked.flags & (REQUEST | ACK), asked.pid) == (REQUEST | ACK, 4711)
        world.answer(asked, generic(ACCEPT, u32(1, HOSTS_NUMBER), u32(3, 1)), beside=tcp.fileno())
        if put is refusing:
            done = await world.asked()
            assert sockfd_untrusted(done, 2) == HOSTS_NUMBER
            assert b"\x08\0\x01\0" + struct.pack("<I", errno.EIO) in encode_message(done)
            world.answer(done)


def refusing(descriptor: int) -> int:
    raise OSError(errno.EMFILE, "too many")


@pytest.mark.parametrize("flags", [REQUEST, REQUEST | ACK])
async def test_the_socket_of_accept_has_the_programs_number(tcp: socket.socket, flags: int) -> None:
    async with playing() as world:
        await accept(world, tcp, world.putting, flags)
        reply, *rest = world.received()
        assert (reply.seq, reply.pid, sockfd_untrusted(reply, 1)) == (9, 4711, 42)
        assert [error_of_untrusted(each) for each in rest] == ([0] if flags & ACK else [])
        (taken,) = world.agency.taken.values()
        assert taken.number == HOSTS_NUMBER
        assert os.fstat(tcp.fileno()).st_ino in world.agency.taken
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(world.put[0])  # the copy here is closed


async def test_a_caller_that_may_open_nothing_ends_its_request(tcp: socket.socket) -> None:
    async with playing() as world:
        await accept(world, tcp, refusing)
        (reply,) = world.received()
        assert error_of_untrusted(reply) == errno.EMFILE
        assert not world.agency.taken
        assert CloseArgs(HOSTS_NUMBER) in world.kernel.calls


async def test_done_names_the_hosts_number(tcp: socket.socket) -> None:
    """What is not open is -1 there; what is, and was not taken, is the host's netlink socket."""
    async with playing() as world:
        await accept(world, tcp, world.putting)
        world.received()
        with socket.socket() as other:
            for number, wanted in (
                (tcp.fileno(), HOSTS_NUMBER),
                (-1, -1),
                (999, -1),
                (other.fileno(), 5),
            ):
                done = request(DONE, u32(1, 0), attribute(2, struct.pack("<i", number)))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(world.sock.sent, done, os.getpid(), world.putting)
                    asked = await world.asked()
                    assert sockfd_untrusted(asked, 2) == wanted
                    world.answer(asked, error=0 if wanted == HOSTS_NUMBER else errno.EBADF)
                # The error quotes what the program has sent.
                errors = [bytes(each.payload[4:]) for each in world.received()]
                assert errors == ([] if wanted == HOSTS_NUMBER else [done])
        (taken,) = world.agency.taken.values()
        assert taken.done
        with open("/dev/null", "rb") as file:  # noqa: ASYNC230
            done = request(DONE, attribute(2, struct.pack("<i", file.fileno())))
            await world.sock.sent(done, os.getpid(), world.putting)
        assert [error_of_untrusted(each) for each in world.received()] == [errno.ENOTSOCK]


async def test_what_no_program_has_any_more_is_closed_there(tcp: socket.socket) -> None:
    async with playing() as world:
        await accept(world, tcp, world.putting)
        await world.agency.sweep()  # nobody below this process has it
        assert not world.agency.taken
        assert CloseArgs(HOSTS_NUMBER) in world.kernel.calls


async def test_a_dump_ends_by_itself() -> None:
    """It is not acknowledged besides, whatever the program has asked."""
    async with playing() as world:
        dump = message(0x10, 3, 0, generic(3), REQUEST | ACK | 0x300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.sock.sent, dump, 1, world.putting)
            asked = await world.asked()
            for kind in (0x10, 3):
                world.host.send(message(kind, asked.seq, asked.pid, bytes(4), 2))
        assert [(each.type, each.seq) for each in world.received()] == [(0x10, 3), (3, 3)]


async def test_ready_comes_in_between() -> None:
    async with playing() as world:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.sock.sent, request(DONE), 1, world.putting)
            asked = await world.asked()
            world.host.send(message(FAMILY, 0, 0, generic(1, u32(2, 1))))
            world.answer(asked, error=errno.EINVAL)
        ready, refused = world.received()
        assert (command_of(ready), ready.seq, error_of_untrusted(refused)) == (1, 0, errno.EINVAL)
        assert world.agency.counts["notified"] == 1


async def test_what_is_not_read_waits_and_then_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, behind what the pair holds; a recvmsg says that some were lost, once."""
    monkeypatch.setattr(netlink, "BACKLOG", 5)
    async with playing() as world:
        for number in itertools.count():
            world.sock.queue(struct.pack("<I", number))
            if world.agency.counts["dropped"]:
                break
        with pytest.raises(OSError, match="buffer"):
            world.sock.receive(world.program, 0)
        found: list[int] = []
        with suppress(BlockingIOError):
            while True:
                found += struct.unpack("<I", world.sock.receive(world.program, 0))
        assert found == list(range(number))


async def test_a_host_that_goes_ends_the_socket() -> None:
    async with playing() as world:
        world.host.shutdown(socket.SHUT_RDWR)
        await trio.lowlevel.wait_readable(world.program)
        assert world.program.recv(10) == b""


def test_descriptors_in_messages() -> None:
    made = done_message(FAMILY, 7, errno.EIO)
    assert sockfd_untrusted(made, 2) == 7
    assert sockfd_untrusted(with_sockfd(made, 2, -1), 2) == -1
    # Of several the last counts; what is too short is none, and nothing behind garbage.
    twice = only(request(DONE, u32(2, 3), u32(2, 4)))
    assert sockfd_untrusted(twice, 2) == 4
    assert sockfd_untrusted(only(request(DONE, attribute(2, b"x"))), 2) is None
    assert sockfd_untrusted(only(request(DONE) + b"\x03\0\x02\0" + u32(2, 4)), 2) is None
    assert encode_message(with_sockfd(only(request(ACCEPT)), 2, 9)) == request(ACCEPT)
