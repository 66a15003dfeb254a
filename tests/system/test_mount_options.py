"""Mount options with real mounts: what can be seen only from outside."""

from __future__ import annotations

import re
import signal
import socket

from tests.system.conftest import Command
from tests.system.live import event, kill, until
from umktls.cli.control import find_hosts
from umktls.cli.sandbox import Sandbox
from umktls.cli.umount import mounts


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_bg_goes_on_until_the_server_comes(umktls: Command, sandbox: Sandbox) -> None:
    port = free_port()
    source = f"127.0.0.1:{port}:{sandbox.export}"
    (sandbox.export / "file").write_text("hello")
    done = umktls("mount", source, sandbox.mountpoint, "--certs", sandbox.certs, "-o", "bg")
    assert done.code == 0
    assert "nothing listens there" in done.line
    assert "trying again for 10000 minutes in the background" in done.line
    (client,) = find_hosts(sandbox.run)
    assert event(client, "mount-delayed")["seconds"] == 1.0
    sandbox.serve("--certs", str(sandbox.certs), "--port", str(port))
    until(lambda: sandbox.mountpoint in mounts(), "mounted in the background", 40)
    assert (sandbox.mountpoint / "file").read_text() == "hello"


def test_bg_is_ended_as_it_says(umktls: Command, sandbox: Sandbox) -> None:
    source = f"127.0.0.1:{free_port()}:/"
    done = umktls("mount", source, sandbox.mountpoint, "-o", "bg,notls,retry=1")
    assert done.code == 0
    assert "trying again for 1 minutes" in done.line
    found = re.search(r"`kill (\d+)` ends that", done.line)
    assert found is not None
    kill(int(found[1]), signal.SIGTERM)
    assert find_hosts(sandbox.run) == []


def test_bg_does_not_wait_for_what_will_not_pass(umktls: Command, sandbox: Sandbox) -> None:
    host, _ = sandbox.serve("--no-tls")
    source = f"127.0.0.1:{host.facts['port']}:{sandbox.export}"
    done = umktls("mount", source, sandbox.mountpoint, "--certs", sandbox.certs, "-o", "bg")
    assert done.code == 32
    assert "does not offer TLS" in done.line


def test_fg_tries_for_as_long_as_it_is_told(umktls: Command, sandbox: Sandbox) -> None:
    """With retry=0, the default, not once more; tests/kernel/test_connecting.py has the rest."""
    source = f"127.0.0.1:{free_port()}:/"
    for options in ("notls", "notls,fg,retry=0"):
        done = umktls("mount", source, sandbox.mountpoint, "-o", options)
        assert done.code == 32
        assert "nothing listens there" in done.line
