"""The real rpcbind, in a network of its own: asked by all its versions, and registered with."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from tests.peers.ganesha import START_SECONDS, listens
from tests.peers.namespace import Namespace, namespace, needs
from tests.system.live import until
from umktls.kernel.krpc import rpcbind
from umktls.kernel.krpc.plaincalls import Place
from umktls.kernel.krpc.rpcbind import NotRegistered, Registration, port_of, registered
from umktls.nfs.program import MOUNT3, NFS3
from umktls.rpc.program import Program
from umktls.rpc.rpcbind import PMAP2, RPCB3, RPCB4

SECONDS = 20
IPV4 = Place(socket.AF_INET, ("127.0.0.1", 0))
IPV6 = Place(socket.AF_INET6, ("::1", 0))
REGISTRATIONS = [
    Registration(program, netid, 20048 + len(netid))
    for program in (MOUNT3, NFS3)
    for netid in ("tcp", "tcp6", "udp")
]
EACH = [(IPV4, PMAP2), (IPV4, RPCB3), (IPV4, RPCB4), (IPV6, RPCB3), (IPV6, RPCB4)]


@pytest.fixture(scope="module")
def network() -> Iterator[Namespace]:
    needs("rpcbind")
    with ExitStack() as stack:
        within = stack.enter_context(namespace())
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="umktls-"))
        stack.enter_context(within.running("rpcbind", "-f", "-w", log=Path(name, "log")))
        until(lambda: listens(within, 111), "rpcbind listens", patience(START_SECONDS))
        yield within


def in_network(network: Namespace, work: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """Run `work`, which is given the path of rpcbind's socket, in that network."""

    async def bounded() -> None:
        with trio.fail_after(patience(SECONDS)):
            await work(network.path("/run/rpcbind.sock"))

    network.within(lambda: trio.run(bounded))


def listed(network: Namespace) -> str:
    """What rpcinfo(8) finds registered."""
    line = network.network("rpcinfo", "-p", "127.0.0.1")
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("path", ["/run/rpcbind.sock", "/nowhere"])
def test_registered_and_taken_back(network: Namespace, path: str) -> None:
    async def work(_: Path) -> None:
        async with registered(REGISTRATIONS, network.path(path)):
            for program in (MOUNT3, NFS3):
                assert await port_of(IPV4, program) == 20051
                assert await port_of(IPV4, program, "udp") == 20051
                assert await port_of(IPV6, program) == 20052
                assert await port_of(IPV6, program, "udp") == 0
            assert {"100003", "100005"} < set(listed(network).split())
        assert await port_of(IPV4, NFS3) == 0
        assert not {"100003", "100005"} & set(listed(network).split())

    in_network(network, work)


@pytest.mark.parametrize(
    ("host", "version"), EACH, ids=["pmap", "rpcb3", "rpcb4", "rpcb3-ipv6", "rpcb4-ipv6"]
)
def test_each_version(
    network: Namespace, host: Place, version: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rpcbind.VERSIONS, host.family, (version,))

    async def work(path: Path) -> None:
        async with registered(REGISTRATIONS, path):
            assert await port_of(host, MOUNT3) == (20052 if host is IPV6 else 20051)

    in_network(network, work)


def test_a_server_that_runs_and_one_that_is_gone(
    network: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpcbind, "ANSWER_SECONDS", patience(1))

    async def work(path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            async with registered([Registration(NFS3, "tcp", port)], path):
                with pytest.raises(NotRegistered, match=f"port {port} is registered"):
                    async with registered(REGISTRATIONS[3:], path):
                        pass
                other.close()
                async with registered(REGISTRATIONS[3:], path):
                    assert await port_of(IPV4, NFS3) == 20051

    in_network(network, work)
