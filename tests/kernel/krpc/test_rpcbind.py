"""rpcbind, played: which of its versions is asked, by what, and what is registered with it."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.kernel.krpc.rpcpeer import Answer, Peer, answers, peer
from umktls.errors import CallerError, PeerError, WorldError
from umktls.kernel.krpc import plaincalls, rpcbind
from umktls.kernel.krpc.plaincalls import Place, plain_calls
from umktls.kernel.krpc.rpcbind import NotRegistered, Registration, port_of, registered
from umktls.nfs.program import MOUNT3, NFS3
from umktls.rpc.message import Call
from umktls.rpc.program import Program
from umktls.rpc.rpcbind import PMAP2, RPCB3, RPCB4, mapping, rpcb

SECONDS = 20
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
HERE = Path("/nowhere/rpcbind.sock")


@asynccontextmanager
async def played(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, **more: Any
) -> AsyncIterator[Peer]:
    with trio.fail_after(patience(SECONDS)):
        async with peer(answer, **more) as one:
            monkeypatch.setattr(rpcbind, "RPCBIND_PORT", one.port)
            yield one


def place(one: Peer) -> Place:
    family = socket.AF_INET6 if ":" in one.host else socket.AF_INET
    return Place(family, (one.host, 1))


def knows(*programs: Program) -> Answer:
    """An rpcbind that knows MOUNT, by TCP at 20048 and by UDP at 20049. GETADDR, which it has by
    TCP alone, looks at no network."""
    ports = {"tcp": 20048, "tcp6": 20048, "udp": 20049, "udp6": 20049}

    def getport(wanted: mapping) -> int:
        netid = {6: "tcp", 17: "udp"}[wanted.prot]
        return ports[netid] if wanted.prog == MOUNT3.number else 0

    def getaddr(wanted: rpcb) -> bytes:
        return b"192.0.2.7.78.80" if wanted.r_prog == MOUNT3.number else b""

    def dump(_: None) -> list[rpcb]:
        return [
            rpcb(number, version, netid.encode(), f"::.{high}.{port & 255}".encode(), b"")
            for number, version, high in ((MOUNT3.number, 1, 1), (1, 3, 2), (MOUNT3.number, 3, 78))
            for netid, port in ports.items()
        ]

    return answers(*programs, GETPORT=getport, GETADDR=getaddr, DUMP=dump)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("versions", [(2,), (3,), (4,), (3, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_every_version_is_understood(
    host: str, versions: tuple[int, ...], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [one for one in (PMAP2, RPCB3, RPCB4) if one.version in versions]
    async with played(monkeypatch, knows(*programs), host=host) as one:
        if host == "::1" and versions == (2,):
            with pytest.raises(WorldError, match="knows no version of rpcbind that could be asked"):
                await port_of(place(one), MOUNT3, protocol)
            return
        wanted = {"tcp": 20048, "udp": 20049}[protocol]
        assert await port_of(place(one), MOUNT3, protocol) == wanted
        assert await port_of(place(one), NFS3, protocol) == 0
        assert {how for how, _, _ in one.asked()} == {"tcp"}


async def test_the_newest_is_asked_first_but_for_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, version in (("127.0.0.1", 2), ("::1", 4)):
        async with played(monkeypatch, knows(PMAP2, RPCB3, RPCB4), host=host) as one:
            await port_of(place(one), MOUNT3)
            assert one.asked() == [("tcp", version, 3)]


async def test_by_udp_where_tcp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played(monkeypatch, knows(PMAP2), tcp=False) as one:
        assert await port_of(place(one), MOUNT3) == 20048
        assert one.asked() == [("udp", 2, 3)]


async def test_the_list_is_asked_for_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played(monkeypatch, knows(RPCB4), tcp=False, host="::1") as one:
        assert await port_of(place(one), MOUNT3) == 20048
        assert await port_of(place(one), NFS3) == 0
        assert one.asked() == [("udp", 4, 4)] * 2


async def test_a_lost_datagram_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known, lost = knows(PMAP2), [True]
    monkeypatch.setattr(plaincalls, "UDP_PAUSES", (0.01,))

    def answer(call: Call) -> bytes | None:
        return None if lost and lost.pop() else known(call)

    async with played(monkeypatch, answer, tcp=False) as one:
        assert await port_of(place(one), MOUNT3) == 20048
        assert len({call.xid for _, call in one.calls}) == 1
        assert len(one.calls) >= 2


async def test_no_rpcbind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played(monkeypatch, knows(PMAP2), tcp=False, udp=False) as one:
        with pytest.raises(WorldError) as caught:
            await port_of(place(one), MOUNT3)
        assert caught.value.errno == errno.ECONNREFUSED
        where = [f"127.0.0.1 {kind} port {one.port}: Connection refused" for kind in ("TCP", "UDP")]
        assert str(caught.value) == "; ".join(where)


async def test_an_rpcbind_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played(monkeypatch, lambda call: None) as one:
        with pytest.raises(WorldError, match=r"GETPORT within 0\.1 s|timed out") as caught:
            await port_of(place(one), MOUNT3, seconds=0.1)
        assert caught.value.errno == errno.ETIMEDOUT


async def test_an_rpcbind_that_is_away_is_soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each of the two ways: a mount asks it first of all."""
    asked: list[float] = []

    def away(place: Place, seconds: float) -> Any:
        asked.append(seconds)
        raise WorldError(f"{place}: Connection timed out", errno.ETIMEDOUT)

    monkeypatch.setattr(rpcbind, "plain_calls", away)
    with pytest.raises(WorldError, match=r"TCP port 111.*UDP port 111"):
        await port_of(Place(socket.AF_INET, ("192.0.2.1", 1)), MOUNT3)
    assert len(asked) == 2
    assert max(asked) <= 15


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"nonsense", "header|ended|message"),
        (b"", "header|ended|message"),
    ],
)
async def test_an_rpcbind_that_talks_nonsense(
    reply: bytes, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with played(monkeypatch, lambda call: reply) as one:
        with pytest.raises(WorldError, match=text):
            await port_of(place(one), MOUNT3)


async def test_a_result_that_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = answers(RPCB4, GETADDR=lambda wanted: b"/run/rpcbind.sock")
    async with played(monkeypatch, answer) as one:
        with pytest.raises(WorldError, match="is not the universal address of a port"):
            await port_of(place(one), MOUNT3)


async def test_a_connection_that_ends_instead_of_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(patience(SECONDS)):
        async with plain_calls(Place(socket.AF_INET, listener.getsockname()), SECONDS) as calls:
            accepted, _ = listener.accept()
            accepted.shutdown(socket.SHUT_WR)
            with pytest.raises(PeerError, match="closed the connection instead of an answer"):
                await calls.call(MOUNT3["NULL"], None)
            accepted.close()


# ---- registering


class Table:
    """What rpcbind has, as it keeps it: by program, version and network."""

    def __init__(self, *programs: Program) -> None:
        self.entries: dict[tuple[int, int, str], str] = {}
        self.answer = answers(
            *programs, SET=self.set, UNSET=self.unset, GETADDR=self.getaddr, DUMP=self.dump
        )

    def key(self, entry: rpcb | mapping) -> tuple[tuple[int, int, str], str]:
        if isinstance(entry, mapping):
            netid = {6: "tcp", 17: "udp"}[entry.prot]
            address = f"0.0.0.0.{entry.port >> 8}.{entry.port & 255}"
            return (entry.prog, entry.vers, netid), address
        return (entry.r_prog, entry.r_vers, entry.r_netid.decode()), entry.r_addr.decode()

    def set(self, entry: rpcb | mapping) -> bool:
        key, address = self.key(entry)
        return self.entries.setdefault(key, address) == address

    def unset(self, entry: rpcb | mapping) -> bool:
        return self.entries.pop(self.key(entry)[0], None) is not None

    def getaddr(self, entry: rpcb) -> bytes:
        return self.entries.get(self.key(entry)[0], "").encode()

    def dump(self, _: None) -> list[rpcb]:
        return [
            rpcb(program, version, netid.encode(), address.encode(), b"")
            for (program, version, netid), address in self.entries.items()
        ]


BOTH = [Registration(NFS3, "tcp", 2049), Registration(MOUNT3, "tcp6", 20048)]
REGISTERED = {(100003, 3, "tcp"): "0.0.0.0.8.1", (100005, 3, "tcp6"): "::.78.80"}


async def test_registered_inside_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(RPCB3, RPCB4)
    async with played(monkeypatch, table.answer):
        async with registered(BOTH, HERE):
            assert table.entries == REGISTERED
        assert table.entries == {}


async def test_taken_back_where_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(RPCB4)
    async with played(monkeypatch, table.answer):
        with trio.CancelScope() as scope:
            async with registered(BOTH, HERE):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert table.entries == {}


async def test_an_old_port_mapper(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(PMAP2)
    async with played(monkeypatch, table.answer):
        async with registered(BOTH[:1], HERE):
            assert table.entries == {(100003, 3, "tcp"): "0.0.0.0.8.1"}
        assert table.entries == {}
        with pytest.raises(NotRegistered, match=r"did not register MOUNT version 3 \(tcp6\)"):
            async with registered(BOTH, HERE):
                pass
        assert table.entries == {}


async def test_one_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(RPCB4)
    only = [Registration(NFS3, "tcp", 2049, "192.0.2.1")]
    async with played(monkeypatch, table.answer), registered(only, HERE):
        assert table.entries == {(100003, 3, "tcp"): "192.0.2.1.8.1"}


async def test_another_server_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(RPCB4)
    async with played(monkeypatch, table.answer), peer(answers(NFS3)) as other:
        address = f"127.0.0.1.{other.port >> 8}.{other.port & 255}"
        table.entries[(100003, 3, "tcp")] = address
        text = f"did not register NFS version 3 \\(tcp\\): port {other.port} is registered for it"
        with pytest.raises(NotRegistered, match=text):
            async with registered(BOTH[::-1], HERE):
                pass
        assert table.entries == {(100003, 3, "tcp"): address}


async def test_a_server_that_is_gone_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(RPCB4)
    async with played(monkeypatch, table.answer), peer(answers(NFS3), tcp=False) as gone:
        table.entries[(100003, 3, "tcp")] = f"0.0.0.0.{gone.port >> 8}.{gone.port & 255}"
        async with registered(BOTH, HERE):
            assert table.entries == REGISTERED


async def test_who_may_not_register(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = answers(RPCB4, SET=lambda entry: False, GETADDR=lambda entry: b"")
    async with played(monkeypatch, answer):
        with pytest.raises(NotRegistered, match="it takes registrations from root alone"):
            async with registered(BOTH, HERE):
                pass


async def test_registering_without_rpcbind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played(monkeypatch, knows(), tcp=False):
        with pytest.raises(NotRegistered, match=r"refused; is it installed and running\?"):
            async with registered(BOTH, HERE):
                pass


async def test_rpcbind_that_has_ended_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(RPCB4)
    async with played(monkeypatch, table.answer) as one:
        async with registered(BOTH, HERE):
            monkeypatch.setattr(one, "answer", lambda call: b"")
        assert table.entries == REGISTERED


def test_a_network_without_ports() -> None:
    with pytest.raises(CallerError, match="no network 'local'; there are: tcp, udp, tcp6, udp6"):
        Registration(NFS3, "local", 1)
