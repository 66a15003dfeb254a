"""-h, -w and -W by names that the machine's own resolver gives: a server in a mount namespace of
its own, whose /etc/hosts says what this machine is called."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.conftest import KERNEL_LACKS, patience
from tests.tlsworld import AUTHORITY
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path
from umktls.kernel.krpc.client import boot_client, own_credential
from umktls.kernel.krpc.rpc_client import RpcClient
from umktls.nfs.program import MOUNT3
from umktls.rpc.client import AuthRejected
from umktls.testing.certificates import CLIENT, directory
from umktls.testing.hosts import client_of, mount_config

DEADLINE = 50
HOST = "b.a.example.org"
# The namespace begins with a copy of all mounts: those of tests beside must not stay because of it.
BIND = 'umount -a -l -t fuse.umktls; mount --bind "$0" /etc/hosts && exec "$@"'
# A client's certificate -> with which options its calls are done.
NAMES = {
    HOST: ("-h", "-h -w", "-h -W"),
    "*.a.example.org": ("-h -w", "-h -W"),
    "*.example.org": ("-h -W",),
    "c.a.example.org": (),
}


def in_namespace(hosts: Path, *command: str) -> list[str]:
    """The command, with another /etc/hosts."""
    return ["unshare", "-m", "sh", "-c", BIND, str(hosts), *command]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can have another /etc/hosts")
    path = tmp_path / "hosts"
    path.write_text(f"127.0.0.1 {HOST} localhost\n")
    command = in_namespace(path, "getent", "hosts", "127.0.0.1")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(20), check=False
    )
    if done.returncode != 0:
        pytest.skip(f"{KERNEL_LACKS} the right to mount here: {done.stderr}")
    assert HOST in done.stdout
    return path


@contextmanager
def serving(hosts: Path, box: Sandbox, options: str) -> Iterator[Host]:
    own = ("--host", "127.0.0.1", "--port", "0", "--state", str(box.top / "state"))
    told = ("--certs", str(box.certs), f"--daemon-args={options}")
    command = (program_path("umktls"), "serve", str(box.export), *own, *told)
    server = subprocess.Popen(
        in_namespace(hosts, *command),
        env=box.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready: ")
        (host,) = box.hosts()
        yield host
    finally:
        server.terminate()
        server.communicate(timeout=patience(20))


@asynccontextmanager
async def client(port: int, rundir: Path, certs: Path, security: str) -> AsyncIterator[RpcClient]:
    config = mount_config(port, rundir, certs=certs, security=security)
    async with boot_client(config) as host, trio.open_nursery() as nursery:
        await host.daemon_ready("rpctlscd")
        rpc = client_of(host, config)
        nursery.start_soon(rpc.run)
        yield rpc
        nursery.cancel_scope.cancel()


async def done(port: int, directory: Path, certs: Path, security: str = "mtls") -> bool:
    """Whether a client's call is done, or rejected."""
    async with client(port, directory, certs, security) as rpc:
        try:
            await rpc.call(MOUNT3["EXPORT"], None, own_credential())
        except AuthRejected:
            return False
        return True


@pytest.mark.long
@pytest.mark.parametrize("options", ["-h", "-h -w", "-h -W"])
async def test_whose_calls_are_done(tmp_path: Path, hosts: Path, options: str) -> None:
    found = {}
    with Sandbox("names") as box:
        directory(box.certs, AUTHORITY)
        with trio.fail_after(patience(DEADLINE)), serving(hosts, box, options) as host:
            port = int(host.facts["port"])
            for number, name in enumerate(NAMES):
                leaf = replace(CLIENT, hosts=(name,))
                certs = directory(tmp_path / str(number), AUTHORITY, client=leaf)
                found[name] = await done(port, tmp_path / f"c{number}", certs)
            # Who shows no certificate is nobody's host.
            assert not await done(port, tmp_path / "c", box.certs, "tls")
            warnings = [event["reason"] for event in host.trace() if event["event"] == "warning"]
    assert found == {name: options in good for name, good in NAMES.items()}
    assert f"the client at 127.0.0.1 is {HOST} for DNS" in warnings[-2]
    assert warnings[-1] == "the client showed no certificate, which -h demands"
