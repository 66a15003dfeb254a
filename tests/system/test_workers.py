"""`umktls serve --workers`: a mount with several connections, and workers that are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.live import event, needs_fuse, now, until
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox


@dataclass
class Served:
    """A server of two workers, and a mount with four connections."""

    box: Sandbox
    server: Host
    client: Host

    def export(self, options: str) -> float:
        """Have the exports with these options; since when."""
        since = now()
        (self.box.top / "exports").write_text(f"{self.box.export} -maproot=root {options}\n")
        os.kill(self.server.pid, signal.SIGHUP)
        return since


@pytest.fixture
def served() -> Iterator[Served]:
    needs_fuse()
    with Sandbox("workers") as box:
        layout.create(box.certs)
        file = box.top / "exports"
        file.write_text(f"{box.export} -maproot=root -tls localhost 127.0.0.1\n")
        options = ("--exports", str(file), "--certs", str(box.certs))
        server, _ = box.serve(*options, "--workers", "2")
        where = f"127.0.0.1:{server.facts['port']}:{box.export}"
        client = box.mount(where, "--certs", str(box.certs), "-o", "nconnect=4,hard,actimeo=0")
        until(lambda: len(client.stat()["connections"]) == 4, "four connections", 20)
        yield Served(box, server, client)


def workers(server: Host) -> list[dict[str, object]]:
    found: list[dict[str, object]] = server.stat()["workers"]
    return found


@pytest.mark.long
def test_what_is_written_while_workers_are_killed_is_whole(served: Served) -> None:
    """Each file is made, written over all connections, renamed into another directory and read;
    meanwhile each worker is killed, one after the other. Nothing fails, nothing is done twice."""
    box, server = served.box, served.server
    assert [one["connections"] for one in workers(server)] == [2, 2]
    (box.mountpoint / "made").mkdir()
    (box.mountpoint / "moved").mkdir()
    contents = {f"{number}": os.urandom(200_000 + number) for number in range(60)}
    for number, (name, data) in enumerate(contents.items()):
        if number in (15, 35):
            pid = workers(server)[number // 30]["pid"]
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)
        path = box.mountpoint / "made" / name
        with path.open("xb") as file:
            file.write(data)
        path.rename(box.mountpoint / "moved" / name)
        os.link(box.mountpoint / "moved" / name, box.mountpoint / "made" / f"{name}.link")
        (box.mountpoint / "made" / f"{name}.link").unlink()
    assert os.listdir(box.export / "made") == []
    for name, data in contents.items():
        assert (box.export / "moved" / name).read_bytes() == data
        assert (box.mountpoint / "moved" / name).read_bytes() == data
    until(lambda: all(one["up"] for one in workers(server)), "both workers again", 30)
    assert [one["starts"] for one in workers(server)] == [2, 2]
    assert "Traceback" not in box.server_log.read_text()


@pytest.mark.long
def test_exports_are_read_again_by_all(served: Served) -> None:
    """A mistake changes nothing, and is told once."""
    box, server = served.box, served.server
    (box.export / "file").write_text("hello")
    names = {path.name for path in box.mountpoint.iterdir()}
    assert names == {"file"}
    served.export("-nonsense")
    until(lambda: "nonsense" in box.server_log.read_text(), "the complaint", 20)
    assert box.server_log.read_text().count("nonsense") == 1
    assert [(box.mountpoint / "file").read_text() for _ in range(4)] == ["hello"] * 4
    since = served.export("-ro -tls")
    until(lambda: len([e for e in server.trace(since) if e["event"] == "exports"]) == 2, "both", 20)
    for number in range(4):
        with pytest.raises(OSError, match="Read-only"):
            (box.mountpoint / str(number)).write_text("no")
    pid = workers(server)[0]["pid"]
    assert isinstance(pid, int)
    since = now()
    os.kill(pid, signal.SIGKILL)
    assert event(server, "worker-gone", since)["pid"] == pid
    until(lambda: all(one["up"] for one in workers(server)), "both workers again", 30)
    for number in range(4):
        with pytest.raises(OSError, match="Read-only"):
            (box.mountpoint / str(number)).write_text("no")
    assert served.client.renew(None, "reconnect")[:2] == (0, 4)
    assert (box.mountpoint / "file").read_text() == "hello"
