"""The units in contrib/systemd: systemd takes them, and what they start does its work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.live import needs_fuse
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
SERVICES = ("umktls-serve@.service", "umktls-front@.service")
INSTALLED = "/usr/local/bin/umktls"
SECONDS = 30.0


def program() -> str:
    return str(Path(sys.executable).with_name("umktls"))


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for path in UNITS.iterdir():
        text = path.read_text().replace(INSTALLED, program())
        (tmp_path / path.name).write_text(text)
    # Of what the machine itself has, nothing but the names of the targets counts.
    command = [analyze, "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(60), check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "umktls" in line or "nfs" in line]
    assert complaints == []


def test_units_are_named_after_their_mount_point() -> None:
    for path in (UNITS / "srv-nfs.mount", UNITS / "srv-nfs.automount"):
        (where,) = re.findall(r"^Where=/(.*)$", path.read_text(), re.MULTILINE)
        assert where.replace("/", "-") == path.stem


def settings(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text().splitlines()
    pairs = [line.partition("=")[::2] for line in lines if "=" in line and line[0] not in "#["]
    return dict(pairs)


@pytest.mark.parametrize("name", SERVICES)
def test_what_the_service_starts_says_that_it_is_ready(tmp_path: Path, name: str) -> None:
    """As the manager would: by the unit's own command line, with a socket for sd_notify(3)."""
    with Sandbox("unit") as box, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        etc = tmp_path / "etc"
        etc.mkdir()
        layout.create(etc / "data.pki")
        (etc / "data.exports").write_text(f"{box.export} -maproot=root\n")
        (etc / "data.clients").write_text("-tlscert\n")
        (etc / "data.backends").write_text("127.0.0.1:1\n")
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(patience(SECONDS))
        line = settings(name)["ExecStart"].replace("$OPTIONS", "--port 0").replace("%i", "data")
        for place, other in (
            (INSTALLED, program()),
            ("/etc/umktls", str(etc)),
            ("/var/lib/umktls-data", str(tmp_path / "state")),
        ):
            assert place in line or place.startswith("/var")
            line = line.replace(place, other)
        environment = {**box.environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with subprocess.Popen(shlex.split(line), env=environment) as server:
            try:
                assert manager.recv(100) == b"READY=1"
                assert settings(name)["ExecReload"] == "/bin/kill -HUP $MAINPID"
                server.send_signal(1)
                assert manager.recv(100).startswith(b"RELOADING=1")
                assert manager.recv(100) == b"READY=1"
            finally:
                server.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            assert server.wait(patience(SECONDS)) == 0


@pytest.mark.long
def test_what_the_mount_unit_says_mounts(tmp_path: Path) -> None:
    """mount(8) has mount.fuse3 call `umktls`, found on the system's path, with these words."""
    needs_fuse()
    helper = shutil.which("mount.fuse3", path="/usr/sbin:/sbin")
    if helper is None or os.geteuid() != 0:
        pytest.skip("mount.fuse3 is not there, or this is not root")
    found = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / "srv-nfs.mount").read_text(), re.MULTILINE))
    assert found["Type"] == "fuse.umktls"
    with Sandbox("unit") as box:
        layout.create(box.certs)
        server, _ = box.serve("--certs", str(box.certs), "--squash", "none")
        (box.export / "file").write_text("hello")
        options = found["Options"].replace("/etc/umktls/pki", str(box.certs))
        source = f"localhost:{server.facts['port']}:/"
        path = f"{Path(program()).parent}:{os.environ['PATH']}"
        command = [helper, source, str(box.mountpoint), "-o", f"rw,{options}", "-t", "fuse.umktls"]
        subprocess.run(
            command,
            env={**box.environment(), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=patience(SECONDS),
            check=True,
        )
        assert (box.mountpoint / "file").read_text() == "hello"
        box.unmount()
