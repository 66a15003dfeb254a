"""Real mounts, one for each engine: a tree is copied through and compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engines.package import install
from tests.system.live import Live, event, live, run
from umktls.cli import tree
from umktls.cli.control import Host
from umktls.errors import WorldError
from umktls.kernel.sockets import hosttls

SOURCE = Path(os.__file__).parent / "email"
LARGE = os.urandom(3 << 20) + b"the end"


def ignore(size: int) -> None:
    """No progress is shown."""


def copy_and_compare(mount: Live) -> None:
    """`cp` of a small tree and a large file into the mount; both sides must agree."""
    (mount.box.top / "large").write_bytes(LARGE)
    run("cp", "-r", SOURCE, mount.path / "tree")
    run("cp", mount.box.top / "large", mount.path / "tree" / "large")
    entries = tree.survey(SOURCE)
    expected = tree.digests(entries, SOURCE, ignore)
    for top in (mount.path / "tree", mount.export / "tree"):
        assert tree.differences(expected, tree.digests(entries, top, ignore)) == []
        assert (top / "large").read_bytes() == LARGE


def engines_of(host: Host) -> list[str]:
    connection = host.stat()["connections"][0]
    return [connection[way]["engine"] for way in ("tx", "rx")]


ENGINES = {
    "bounce": ["bounce", "bounce"],
    "tx=bounce": ["bounce", "software"],
    "rx=bounce": ["software", "bounce"],
    "toe": ["toe", "toe"],
    "ifnet": ["ifnet", "software"],
}


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ("bounce", "ifnet"),
        pytest.param("tx=bounce", "rx=bounce", marks=pytest.mark.long),
        pytest.param("toe", "tx=bounce", marks=pytest.mark.long),
        ("ifnet", "toe"),
    ],
)
def test_a_mount_with(client: str, server: str) -> None:
    name = client.replace("=", "-")
    with live(name, ["--engine", client], ["--engine", server]) as mount:
        copy_and_compare(mount)
        assert engines_of(mount.client) == ENGINES[client]
        assert engines_of(mount.server) == ENGINES[server]


@pytest.mark.long
def test_the_card_of_a_mount_is_switched_and_given_up() -> None:
    with live("card", ["--engine", "ifnet"]) as mount:
        box = mount.box
        name = mount.client.name
        copy_and_compare(mount)
        assert "1 connections asked for SW" in box.command(["txmode", "sw", name], 20)
        assert engines_of(mount.client) == ["software", "software"]
        box.command(["txmode", "ifnet", name], 20)
        (mount.path / "more").write_bytes(LARGE)
        assert engines_of(mount.client) == ["ifnet", "software"]
        box.command(["sysctl", "--host", name, "umktls.ifnet_rexmit_pct=50"], 20)
        (mount.path / "more").write_bytes(LARGE + LARGE)
        assert engines_of(mount.client) == ["software", "software"]
        assert (mount.export / "more").read_bytes() == LARGE + LARGE
        with pytest.raises(WorldError, match="the card was given up"):
            box.command(["txmode", "ifnet", name], 20)
        stats = box.command(["sysctl", "--host", name, "kern.ipc.tls.stats"], 20).splitlines()
        linux = box.command(["stat", name, "--tls_stat"], 20).splitlines()
        freebsd = box.command(["stat", name, "--sysctl"], 20).splitlines()
    for line in ("switch_to_sw: 2", "switch_to_ifnet: 1", "ifnet_disable_ok: 1"):
        assert f"kern.ipc.tls.stats.{line}" in stats
    assert set(stats) < set(freebsd)
    assert "kern.ipc.tls.ifnet_max_rexmit_pct: 2" in freebsd
    assert linux[0] == f"{'TlsCurrTxSw':<32}\t1"


@pytest.mark.long
def test_a_mount_in_clear_says_so_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with live("null", ["-o", "engine=null"], ["--engine", "null"]) as mount:
        copy_and_compare(mount)
        assert engines_of(mount.client) == ["null", "null"]
        warning = event(mount.client, "warning")
        box = mount.box
        second = box.directory("second")
        source = f"localhost:{mount.server.facts['port']}:{box.export}"
        again = ("mount", source, str(second), "--certs", str(box.certs), "-o", "engine=null")
        said = box.command(again, 40)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        shown = box.command(["stat"], 20)
        box.command(["umount", str(second)], 40)
        served = box.server_log.read_text()
    for text in (warning["reason"], said, served):
        assert "CLEAR TEXT" in text
    (red,) = {line for line in shown.splitlines() if "tx and rx: engine null" in line}
    assert "\x1b[1;31m" in red


@pytest.mark.long
def test_an_engine_of_somebody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path)))
    monkeypatch.setenv("NOTING_FILE", str(tmp_path / "noted"))
    with live("noting", ["--engine", "tx=noting,rx=noting"]) as mount:
        listed = mount.box.command(["engines"], 20)
        copy_and_compare(mount)
        assert engines_of(mount.client) == ["noting", "noting"]
    assert "noting    mode SW, from noting_engine:NotingEngine: somebody else's" in listed
    noted = (tmp_path / "noted").read_text().splitlines()
    assert {line.split()[0] for line in noted} == {"sealer", "opener"}


def test_a_mount_with_what_this_kernel_lacks() -> None:
    """A clear error; and where this machine's kernel has TLS, a mount by it."""
    if hosttls.problem() is None:
        with live("linux", ["--engine", "linux"], ["--engine", "linux"]) as mount:
            copy_and_compare(mount)
            assert engines_of(mount.client) == ["linux", "linux"]
        return
    with (
        pytest.raises(WorldError, match=r"engine linux cannot be used here: .* lacks TLS"),
        live("linux", ["--engine", "linux"]),
    ):
        raise AssertionError("a mount works by what is not there")
