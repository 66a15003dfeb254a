"""Many connections at once, with the real daemons as processes, by both versions of the upcall."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.errors import UmktlsError
from umktls.kernel.krpc.client import MountConfig, boot_client
from umktls.kernel.krpc.connecting import make_connection
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.kernel.upcalls import tls
from umktls.rpc.message import NULL_AUTH
from umktls.testing.echo import SAY
from umktls.testing.hosts import mount_config, pair, serving

CONNECTIONS = 20
# As few as can be relied on to be lost if hosts may wait for each other.
MANY = 60


def most_at_once(events: list[dict[str, Any]]) -> int:
    """How many CONNECTs were out at the same time, by a host's trace."""
    out = most = 0
    for event in events:
        out += {"upcall": 1, "upcall-answered": -1}[event["event"]]
        most = max(most, out)
    return most


@pytest.mark.parametrize(("name", "version"), [("freebsd14", 1), ("freebsd15", 2)])
async def test_twenty_connections_at_once(
    certs: Path, tmp_path: Path, name: str, version: int
) -> None:
    both: dict[str, Any] = {"security": "mtls", "personality": PERSONALITIES[name]}
    with trio.fail_after(patience(50)):
        async with pair(certs, tmp_path, both, {**both, "connects": 8}) as hosts:
            port = hosts.server.config.facts["port"]
            config = mount_config(port, tmp_path / "c", certs=certs, **both)
            made: list[KernelSocket] = []

            async def connect() -> None:
                made.append(await make_connection(hosts.client, config))

            async with trio.open_nursery() as nursery:
                for _ in range(CONNECTIONS):
                    nursery.start_soon(connect)
            assert len(made) == CONNECTIONS
            assert await hosts.rpc.call(SAY, b"and one more", NULL_AUTH) == b"and one more"
            for host in (hosts.client, hosts.server):
                # A client is done before the server's daemon has answered.
                while host.totals["handshakes"] <= CONNECTIONS:
                    await trio.lowlevel.checkpoint()
                (daemon,) = (handle for handles in host.handles.values() for handle in handles)
                assert (daemon.version, daemon.places, daemon.offers) == (version, 0, {})
                assert host.totals["handshakes"] == CONNECTIONS + 1
            at_once = {
                side: most_at_once(hosts.events(side, "upcall", "upcall-answered"))
                for side in ("client", "server")
            }
            for sock in made:
                await tls.disconnect(hosts.client, sock, "the test is over")
    # By version 1 one after the other; by version 2 many, and no more than one address may have.
    assert at_once["server"] in ([1] if version == 1 else range(2, 7))
    assert (at_once["client"] == 1) == (version == 1)


def test_two_hosts_that_each_have_one_place(certs: Path, tmp_path: Path) -> None:
    """In processes of their own, where nothing keeps their orders the same: no host's place goes
    to a connection that waits for the other host's."""
    name, seconds = "freebsd14", patience(5)
    both: dict[str, Any] = {"personality": PERSONALITIES[name], "upcall_seconds": seconds}
    with Sandbox("bursts") as sandbox:
        options = ("--personality", name, "--upcall-timeout", str(seconds), "--certs", str(certs))
        server, _ = sandbox.serve(*options)
        config = mount_config(int(server.facts["port"]), tmp_path / "c", certs=certs, **both)
        assert trio.run(connect_all, config, MANY, server) == MANY
        failed = server.stat()["totals"]["handshakes_failed"]
    assert failed == 0


async def connect_all(config: MountConfig, number: int, server: Host) -> int:
    """So many connections, all at once; how many have become sessions, also in the server.
    Raises if one has not."""
    with trio.fail_after(patience(50)):
        async with boot_client(config) as host:
            await host.daemon_ready("rpctlscd")
            async with trio.open_nursery() as nursery:
                for _ in range(number):
                    nursery.start_soon(make_connection, host, config)
            # A client is done before the server's daemon has answered.
            while server.stat()["totals"]["handshakes"] < number:
                await trio.lowlevel.checkpoint()
            return len(host.established(None))


async def test_freebsd_15_without_a_daemon(certs: Path, tmp_path: Path) -> None:
    """The probe is answered, and the handshake behind it comes to nothing."""
    alone = {"personality": PERSONALITIES["freebsd15"], "no_daemon": True, "upcall_seconds": 0.5}
    with trio.fail_after(patience(50)):
        async with serving(tmp_path / "s", certs=certs, **alone) as listening:
            config = mount_config(listening.port, tmp_path / "c", certs=certs)
            async with boot_client(replace(config, upcall_seconds=20.0)) as client:
                await client.daemon_ready("rpctlscd")
                with pytest.raises(UmktlsError, match="phase"):
                    await make_connection(client, config)
                assert [e["event"] for e in client.trace.since()].count("starttls") == 1
            (failed,) = (
                event
                for event in listening.host.trace.since()
                if event["event"] == "handshake-failed"
            )
    assert "no rpctlssd had time for this connection" in failed["reason"]
