"""Where a server listens."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio

from tests.conftest import KERNEL_LACKS, patience
from umktls.errors import CallerError, WorldError
from umktls.kernel.krpc import listening
from umktls.kernel.krpc.listening import listen, mount_listeners


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason=f"{KERNEL_LACKS} IPv6")


@contextmanager
def closing_all(listeners: Sequence[trio.socket.SocketType]) -> Iterator[list[tuple[str, int]]]:
    try:
        yield [listener.getsockname()[:2] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        (("127.0.0.1",), {"127.0.0.1"}),
        (("0.0.0.0",), {"0.0.0.0"}),
        pytest.param(("::",), {"::", "0.0.0.0"}, marks=needs_ipv6),
        pytest.param(("::", "0.0.0.0"), {"::", "0.0.0.0"}, marks=needs_ipv6),
        pytest.param(
            ("::1", "127.0.0.1", "127.0.0.2"), {"::1", "127.0.0.1", "127.0.0.2"}, marks=needs_ipv6
        ),
        (("127.0.0.1", "127.0.0.1"), {"127.0.0.1"}),
        (("127.0.0.1", "0.0.0.0"), {"0.0.0.0"}),
        pytest.param(("0.0.0.0", "::1"), {"0.0.0.0", "::1"}, marks=needs_ipv6),
    ],
)
async def test_all_addresses_on_one_port(hosts: tuple[str, ...], addresses: set[str]) -> None:
    with closing_all(await listen(hosts, 0)) as names:
        assert len(names) == len(addresses)
        assert {address for address, _ in names} == addresses
        (port,) = {port for _, port in names}
        assert port > 0


@needs_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_all_addresses_are_those_of_both_families(address: str) -> None:
    """And a client's IPv4 address is one."""
    listeners = await listen(("::",), 0)
    with trio.fail_after(patience(10)), closing_all(listeners) as names:
        stream = await trio.open_tcp_stream(address, names[0][1])
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        (listener,) = (each for each in listeners if each.family == family)
        accepted, peer = await listener.accept()
        assert peer[0] == address
        accepted.close()
        await stream.aclose()


async def test_an_address_of_a_family_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    real = listening.listen_address

    async def without_ipv6(address: listening.Address, port: int) -> trio.socket.SocketType:
        if address.family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return await real(address, port)

    monkeypatch.setattr(listening, "listen_address", without_ipv6)
    with closing_all(await listen(("::",), 0)) as names:
        assert [address for address, _ in names] == ["0.0.0.0"]
    with pytest.raises(WorldError, match="cannot listen on ::1 port 0") as caught:
        await listen(("::1",), 0)
    assert caught.value.errno == errno.EAFNOSUPPORT


async def test_a_port_that_is_taken_is_said_and_nothing_stays_open() -> None:
    with closing_all(await listen(("127.0.0.2",), 0)) as ((_, port),):
        with pytest.raises(WorldError, match=rf"1, 127\.0\.0\.2 port {port}: Address al"):
            await listen(("127.0.0.1", "127.0.0.2"), port)
        with closing_all(await listen(("127.0.0.1",), port)):
            pass


async def test_a_free_port_is_free_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it was taken at the second address is no reason to give up."""
    real = listening.listen_address
    refused: list[int] = []

    async def taken_once(address: listening.Address, port: int) -> trio.socket.SocketType:
        if address.sockaddr[0] == "127.0.0.2" and not refused:
            refused.append(port)
            raise OSError(errno.EADDRINUSE, "taken")
        return await real(address, port)

    monkeypatch.setattr(listening, "listen_address", taken_once)
    with closing_all(await listen(("127.0.0.1", "127.0.0.2"), 0)) as names:
        assert len({port for _, port in names}) == 1
    assert refused


async def test_no_port_is_free_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    async def taken(addresses: object, port: int) -> list[trio.socket.SocketType]:
        await trio.lowlevel.checkpoint()
        tried.append(port)
        raise OSError(errno.EADDRINUSE, "taken")

    monkeypatch.setattr(listening, "listen_on", taken)
    with pytest.raises(WorldError, match=r"on 127\.0\.0\.1 port 0: Address already in use"):
        await listen(("127.0.0.1",), 0)
    assert tried == [0] * listening.ATTEMPTS


@pytest.mark.parametrize("host", ["no.such.invalid", "a" * 70, "ä" * 70])
async def test_a_name_that_is_none(host: str) -> None:
    with pytest.raises(CallerError, match="cannot listen on"):
        await listen((host,), 0)


async def test_the_port_for_mount_ends_with_its_block() -> None:
    async with mount_listeners(("127.0.0.1", "127.0.0.2"), 0) as listeners:
        assert len(listeners) == 2
    assert [listener.fileno() for listener in listeners] == [-1, -1]
    async with mount_listeners(("127.0.0.1",), None) as none:
        assert none == []
