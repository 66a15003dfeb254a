"""Counters and knobs of a host: one set, summed over its connections."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tests.conftest import patience
from tests.engines.talking import engine, talk
from umktls.cli.main import main
from umktls.errors import CallerError
from umktls.kernel.host.host import Host
from umktls.kernel.host.knobs import tx_mode
from umktls.kernel.upcalls import tls
from umktls.testing.hosts import pair

PCT = "kern.ipc.tls.ifnet_max_rexmit_pct"


def counter(host: Host, name: str) -> int:
    lines = [*host.sysctl({})["sysctl"], *host.sysctl({})["tls_stat"]]
    pairs = [line.replace("\t", ":").split(":") for line in lines]
    (value,) = (int(value) for key, value in pairs if key.strip() == name)
    return value


async def test_counters_are_the_host_s_and_outlive_connections(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, engine("toe")) as both:
            await talk(both, 1, 100_000, 3)
            assert counter(both.client, "TlsCurrTxSw") == 1
            assert counter(both.client, "kern.ipc.tls.stats.active") == 2
            assert counter(both.server, "TlsCurrRxDevice") == 1
            assert counter(both.server, "kern.ipc.tls.toe.gcm") == 2
            (sock,) = both.client.sockets.values()
            await tls.disconnect(both.client, sock, "the test wants it")
            assert counter(both.client, "kern.ipc.tls.stats.active") == 0
            await talk(both, 1, 100_000, 3)
            assert counter(both.client, "TlsCurrTxSw") == 1
            assert counter(both.client, "TlsTxSw") == 2
            assert counter(both.client, "kern.ipc.tls.stats.enable_calls") == 4
            records = both.client.stat()["totals"]["records_tx"]
            # The daemon's close_notify is a record that no connection counts any more.
            sealed = counter(both.client, "kern.ipc.tls.stats.ocf.tls13_gcm_encrypts")
    assert 6 * 7 <= records <= sealed


async def test_knobs_are_turned_all_or_none(certs: Path, tmp_path: Path) -> None:
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {"security": "none"}, {"security": "none"}) as both:
            host = both.client
            lines = host.sysctl({PCT: 7, "kern.ipc.tls.enable": 0})["sysctl"]
            assert f"{PCT}: 7" in lines
            assert host.sysctls.enable is False
            for bad in (
                {PCT: 8, "kern.nix": 1},
                {PCT: "8"},
                {PCT: True},
                {PCT: 1 << 40},
                {PCT: 8, "kern.ipc.tls.maxlen": 0},
            ):
                with pytest.raises(CallerError):
                    host.sysctl(bad)
            assert host.sysctls.ifnet_max_rexmit_pct == 7
            host.sysctl({"umktls.ifnet_rexmit_pct": 3})
            assert host.rexmit_pct == 3.0
            assert (
                "umktls.ifnet_rexmit_pct: -1"
                in host.sysctl({"umktls.ifnet_rexmit_pct": -1})["sysctl"]
            )


async def test_the_knobs_are_obeyed(certs: Path, tmp_path: Path) -> None:
    """kern.ipc.tls.enable=0: kernel TLS does not work, and the daemon says so."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {"bounce": True}, {}) as both:
            both.client.sysctl({"kern.ipc.tls.enable": 0})
            await talk(both, 1, 1000, 1)
            (connection,) = both.client.stat()["connections"]
    assert connection["tx"]["engine"] == connection["rx"]["engine"] == "bounce"


async def test_kernel_tls_for_sending_only(certs: Path, tmp_path: Path) -> None:
    """kern.ipc.tls.rx_enable=0, and records as short as kern.ipc.tls.maxlen says."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {"bounce": True}, {}) as both:
            both.client.sysctl({"kern.ipc.tls.rx_enable": 0, "kern.ipc.tls.maxlen": 100})
            await talk(both, 1, 1000, 1)
            (connection,) = both.client.stat()["connections"]
    assert (connection["tx"]["engine"], connection["rx"]["engine"]) == ("software", "bounce")
    assert connection["tx"]["records"] >= 10


async def test_a_card_that_is_not_permitted(certs: Path, tmp_path: Path) -> None:
    """kern.ipc.tls.ifnet.permitted=0: software seals, until TCP_TXTLS_MODE asks for the card."""
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, engine("ifnet"), {}) as both:
            both.client.sysctl({"kern.ipc.tls.ifnet.permitted": 0})
            await talk(both, 1, 1000, 1)
            (connection,) = both.client.stat()["connections"]
            assert (connection["tx"]["engine"], connection["tx"]["mode"]) == ("software", "SW")
            await tx_mode(both.client, "ifnet", None)
            await talk(both, 1, 1000, 1)
            (connection,) = both.client.stat()["connections"]
    assert (connection["tx"]["engine"], connection["tx"]["mode"]) == ("ifnet", "IFNET")


async def test_the_commands_refuse_nonsense(certs: Path, tmp_path: Path) -> None:
    async def run(*words: str) -> tuple[int, str]:
        done = await trio.to_thread.run_sync(CliRunner().invoke, main, list(words))
        return done.exit_code, done.output

    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, {}, {}) as both:
            rundir = str(both.client.rundir.path)
            code, said = await run("sysctl", "--host", rundir, PCT)
            assert (code, said) == (0, f"{PCT}: 2\n")
            code, said = await run("sysctl", "--host", rundir, f"{PCT}=many")
            assert code == 1
            assert "a whole number is wanted" in said
            code, said = await run("sysctl", "--host", rundir, "kern.nix=1")
            assert code == 1
            assert "no sysctl 'kern.nix' can be set" in said
            code, said = await run("sysctl", "--host", rundir, PCT, "kern.nix")
            assert code == 1
            assert said.startswith(f"{PCT}: 2\n")
            assert "no sysctl 'kern.nix'" in said
            await talk(both, 1, 1000, 1)
            code, said = await run("txmode", "ifnet", rundir)
            assert code == 1
            assert "c1: engine software cannot change its mode to IFNET" in said
