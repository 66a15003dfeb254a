"""A program that waits for a mount which stands in front of a step."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conftest import patience
from tests.system.live import needs_fuse
from umktls.certs import layout
from umktls.cli.control import connect
from umktls.cli.sandbox import Sandbox

pytestmark = pytest.mark.long


def test_it_can_be_killed_and_the_mount_goes_on() -> None:
    needs_fuse()
    with Sandbox("stepped") as sandbox:
        layout.create(sandbox.certs)
        (sandbox.export / "file").write_text("it goes on\n")
        server, _ = sandbox.serve("--certs", str(sandbox.certs), "--mtls-required")
        source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
        client = sandbox.mount(source, "--certs", str(sandbox.certs), "-o", "mtls")
        (connection,) = client.stat()["connections"]
        with connect(client.rundir / "control.sock") as sock, sock.makefile("rb") as told:
            sock.settimeout(patience(20))
            sock.sendall(json.dumps({"op": "step", "kinds": ["probe"]}).encode() + b"\n")
            assert json.loads(told.readline()) == {"stops": []}
            client.answer({"op": "do", "what": "cut", "connection": connection["id"]}, patience(10))
            reader = subprocess.Popen(["cat", str(sandbox.mountpoint / "file")])
            try:
                (stop,) = json.loads(told.readline())["stops"]
                assert stop["step"] == "probe"
                reader.terminate()
                assert reader.wait(patience(20)) < 0
                stood = [event["event"] for event in client.trace()]
                assert "gone-on" not in stood[stood.index("stopped") :]
            finally:
                reader.kill()
        assert (sandbox.mountpoint / "file").read_text() == "it goes on\n"
