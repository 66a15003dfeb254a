"""Mount options with real mounts: what can be seen only from outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import KERNEL_LACKS
from tests.ports import free_port
from tests.system.conftest import Command
from tests.system.live import event, kill, run, until
from umktls.cli.control import find_hosts
from umktls.cli.sandbox import Sandbox
from umktls.cli.umount import mounts
from umktls.kernel.host import mountinfo
from umktls.kernel.host.commands import program_path
from umktls.kernel.host.rundir import running


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


def test_bg_does_not_cover_what_was_mounted_meanwhile(umktls: Command, sandbox: Sandbox) -> None:
    port = free_port()
    late, certs = f"127.0.0.1:{port}:{sandbox.export}", ("--certs", sandbox.certs)
    assert umktls("mount", late, sandbox.mountpoint, *certs, "-o", "bg").code == 0
    (waits,) = find_hosts(sandbox.run)
    with Sandbox("other") as other:
        host, _ = other.serve("--no-tls")
        source = f"127.0.0.1:{host.facts['port']}:{other.export}"
        assert umktls("mount", source, sandbox.mountpoint, "-o", "notls").code == 0
        seen = sandbox.mountpoint.stat().st_dev
        sandbox.serve("--certs", str(sandbox.certs), "--port", str(port))
        until(lambda: not running(waits.pid), "the other one gives up", 40)
        assert sandbox.mountpoint.stat().st_dev == seen
        assert umktls("umount", sandbox.mountpoint).code == 0
    assert sandbox.mountpoint not in mounts()


def test_bg_does_not_wait_for_what_will_not_pass(umktls: Command, sandbox: Sandbox) -> None:
    host, _ = sandbox.serve("--no-tls")
    source = f"127.0.0.1:{host.facts['port']}:{sandbox.export}"
    done = umktls("mount", source, sandbox.mountpoint, "--certs", sandbox.certs, "-o", "bg")
    assert done.code == 32
    assert "does not offer TLS" in done.line


def test_fg_tries_for_as_long_as_it_is_told(umktls: Command, sandbox: Sandbox) -> None:
    """With retry=0, the default, not once more (more in tests/kernel/krpc/test_connecting.py)."""
    source = f"127.0.0.1:{free_port()}:/"
    for options in ("notls", "notls,fg,retry=0"):
        done = umktls("mount", source, sandbox.mountpoint, "-o", options)
        assert done.code == 32
        assert "nothing listens there" in done.line


@pytest.mark.long
def test_nconnect_spreads_calls_and_outlives_a_connection(sandbox: Sandbox) -> None:
    """Each connection has TLS of its own; a file that is written over all of them is whole."""
    host, _ = sandbox.serve("--certs", str(sandbox.certs), "-tls")
    source = f"127.0.0.1:{host.facts['port']}:{sandbox.export}"
    client = sandbox.mount(source, "--certs", str(sandbox.certs), "-o", "nconnect=3")
    until(lambda: len(client.stat()["connections"]) == 3, "three connections", 20)
    data = os.urandom(8 << 20)
    (sandbox.mountpoint / "file").write_bytes(data)
    assert (sandbox.export / "file").read_bytes() == data
    assert client.renew(None, "reconnect")[:2] == (0, 3)
    for number in range(30):
        (sandbox.mountpoint / str(number)).write_bytes(data[:number])
    assert sorted(os.listdir(sandbox.export)) == sorted(["file", *map(str, range(30))])
    state = client.stat()
    first, others = state["connections"][:3], state["connections"][3:]
    assert all(one["tls"] and one["rpc"]["replies"] > 3 for one in first)
    assert len([one for one in others if one["state"] == "established"]) == 3


WAYS = {
    "umktls mount": ["umktls", "mount", "{source}", "{place}", "-o", "{options}"],
    "mount -t umktls": ["mount.umktls", "{source}", "{place}", "-o", "rw,{options}"],
    "mount -t fuse.umktls": [
        *("/sbin/mount.fuse3", "{source}", "{place}", "-t", "fuse.umktls", "-o", "rw,{options}")
    ],
}


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) is root's")
@pytest.mark.parametrize("way", WAYS)
def test_the_defaults_are_the_same_whichever_way_it_is_mounted(sandbox: Sandbox, way: str) -> None:
    """The helpers are called as mount(8) calls them; it would look for them in /sbin only."""
    host, _ = sandbox.serve("--no-tls")
    source = f"127.0.0.1:{host.facts['port']}:{sandbox.export}"
    here = Path(program_path("umktls")).parent
    environment = sandbox.environment() | {"PATH": f"{here}:{os.environ['PATH']}"}
    for options, flags in (
        ("notls", {"nosuid", "nodev"}),
        ("notls,suid", {"nodev"}),
        ("notls,allow_dev", {"nosuid"}),
    ):
        place = sandbox.directory(options.replace(",", "-"))
        words = [word.format(source=source, place=place, options=options) for word in WAYS[way]]
        program = shutil.which(words[0], path=environment["PATH"])
        assert program is not None, f"{words[0]} is not installed"
        run(program, *words[1:], env=environment)
        (found,) = [one for one in mountinfo.mounts() if one.mountpoint == str(place)]
        assert found.kind == mountinfo.FSTYPE
        assert found.options & {"nosuid", "nodev"} == flags


# Imported before the rights go: the project's files may be closed to other users.
AS_SOMEBODY = """
import os, sys
import umktls_fs.serving
import umktls_fs.mount
from umktls_fs.command import mount
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
mount(sys.argv[1:])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_not_mount_is_told_before_the_server_is_asked(sandbox: Sandbox) -> None:
    if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        pytest.skip(f"{KERNEL_LACKS} somebody who may not mount: its /dev/fuse is for all")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = f"127.0.0.1:{listener.getsockname()[1]}:/"
        words = (source, "/tmp", "--certs", sandbox.certs)
        said = run(sys.executable, "-c", AS_SOMEBODY, *words, code=32, env=sandbox.environment())
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert said.endswith("this user may not mount (as root: chmod 666 /dev/fuse)\n")
    assert said.count("\n") == 1
