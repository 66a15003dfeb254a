"""What tests of mounts have in common: a sandbox with its server, and the mounts in it."""

from __future__ import annotations

from pathlib import Path

from tests.system.conftest import MOUNT_SECONDS
from tests.system.live import ended, run, until
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.cli.umount import mounts
from umktls.kernel.host.commands import program_path

TEXT = "what the server has"


def server(box: Sandbox) -> Host:
    (found,) = [host for host in box.hosts() if host.facts["role"] == "server"]
    return found


def clients(box: Sandbox) -> list[Host]:
    return [host for host in box.hosts() if host.facts["role"] == "client"]


def source(box: Sandbox) -> str:
    return f"127.0.0.1:{server(box).facts['port']}:{box.export}"


def mount(box: Sandbox, place: Path, *options: str) -> Host:
    options = options or ("-o", "mtls")
    return box.mount(source(box), "--certs", str(box.certs), *options, at=place)


def umktls(box: Sandbox, *arguments: object, code: int = 0) -> str:
    return run(
        program_path("umktls"),
        *arguments,
        code=code,
        seconds=MOUNT_SECONDS,
        env=box.environment(),
    )


def assert_gone(box: Sandbox, place: Path, host: Host) -> None:
    """Nothing is left of a mount: no process, no mount, no file."""
    assert ended(host.pid)
    assert place not in mounts()
    assert not host.rundir.exists()
    of_server = {server(box).pid, *(daemon["pid"] for daemon in server(box).stat()["daemons"])}
    until(lambda: set(box.processes()) == of_server, "only the server's processes are left")
