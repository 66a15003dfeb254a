"""`umktls front --workers`: two processes that carry, and one that is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.front.test_command import carrying
from tests.system.live import until
from umktls.kernel.team.gather import backends_of_all


@pytest.mark.long
def test_two_workers_carry_one_mount(tmp_path: Path) -> None:
    """Its connections go over both; `stat` has each backend once, with the connections of all. Of a
    worker that is killed the mount notices nothing, and SIGHUP is for both."""
    allowed = tmp_path / "clients"
    allowed.write_text("-tls\n")
    with carrying("fronts", "--workers", "2", "--clients", allowed) as c:
        c.mount("nconnect=2", "hard", "actimeo=0")
        client = next(host for host in c.box.hosts() if host.facts["role"] == "client")
        until(lambda: len(client.stat()["connections"]) >= 2, "two connections", 20)
        data = os.urandom(1 << 20)
        (c.box.mountpoint / "file").write_bytes(data)
        assert (c.box.export / "file").read_bytes() == data
        state = c.front.stat()
        assert [worker["connections"] for worker in state["workers"]] == [1, 1]
        (backend,) = state["backends"]
        assert backend["name"] == f"127.0.0.1:{c.backend}"
        assert (backend["up"], backend["connections"]) == (True, 2)
        os.kill(state["workers"][0]["pid"], signal.SIGKILL)
        for number in range(20):
            (c.box.mountpoint / str(number)).write_bytes(data[:number])
        assert len(os.listdir(c.box.export)) == 21
        until(lambda: all(one["up"] for one in c.front.stat()["workers"]), "both again", 40)
        c.front.reload()
        assert (c.box.mountpoint / "file").read_bytes() == data


def test_a_backend_is_down_where_one_worker_has_it_down() -> None:
    up = {"name": "a:1", "up": True, "reason": "", "connections": 1, "total": 2}
    down = {"name": "a:1", "up": False, "reason": "gone", "connections": 0, "total": 5}
    for views in ([[up], [down]], [[down], [up]]):
        (found,) = backends_of_all(views)
        assert found == {**down, "connections": 1, "total": 7}
    assert up["total"] == 2
