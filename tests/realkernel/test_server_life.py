"""What happens to `umktls mount`s of a real Linux's NFS server while they last."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.realkernel.guest import GUEST, Guest
from tests.realkernel.heard import MARKED, PROBE, SIZE, TEXT, assert_unseen, calls, clear_calls_of
from tests.realkernel.inside.nfsd import MOUNT, MOUNT_PORT, NFS, NFS_PORT
from tests.realkernel.inside.work import hashes
from tests.realkernel.knfsd import TOP, mount, serve, writing
from tests.realkernel.pki import Pki
from tests.system.live import daemon_pid, event, kill, now, until
from tests.system.test_capture import capturing
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError

FILE = f"{TOP}/mtls/file"
MEGABYTE = 1 << 20
# Twice the six minutes of net/sunrpc/svc_xprt.c, and some more, as the machine's clock may be late.
IDLE_SECONDS = 840


@pytest.fixture
def client(box: Sandbox, pki: Pki) -> Host:
    """A mount with a certificate."""
    return mount(box, pki, "mtls", "mtls")


def assert_written(guest: Guest, digest: str) -> None:
    assert guest.call("hashes", top=f"{TOP}/mtls")["file"] == digest


def sealed(client: Host) -> list[str]:
    """The connections that have TLS."""
    return [one["id"] for one in client.stat()["connections"] if one.get("tls")]


def test_found_by_rpcbind(guest: Guest, box: Sandbox, pki: Pki) -> None:
    """MOUNT is where rpcbind says, and in clear."""
    guest.call("write", path=f"{TOP}/mtls/here", text="by rpcbind")
    client = mount(box, pki, "mtls", "mtls", more="")
    found = event(client, "mountd")
    assert (found["how"], found["where"]) == ("clear", f"{GUEST} TCP port 20048")
    assert (box.mountpoint / "here").read_text() == "by rpcbind"


def test_nconnect(guest: Guest, box: Sandbox, pki: Pki) -> None:
    """Four connections, each with a handshake of its own."""
    made = guest.call("tree", top=f"{TOP}/mtls/tree")
    client = mount(box, pki, "mtls", "mtls", more=",mountport=20048,nconnect=4")
    assert hashes(str(box.mountpoint / "tree")) == made
    assert len(sealed(client)) == 4
    guest.call("remove", path=f"{TOP}/mtls/tree")


def test_nothing_in_clear(guest: Guest, box: Sandbox, pki: Pki) -> None:
    """MOUNT is, at a port of its own, and at that of NFS the probe and the answer to it: all that
    tshark reads as RPC. Of NFS there is no call, and of a file no byte."""
    packets, mounting = box.top / "nfs.pcapng", box.top / "mount.pcapng"
    with capturing(packets, NFS_PORT), capturing(mounting, MOUNT_PORT):
        mount(box, pki, "mtls", "mtls")
        directory = box.mountpoint / "marked"
        directory.mkdir()
        (directory / MARKED).write_text(TEXT)
        assert [path.name for path in directory.iterdir()] == [MARKED]
        box.unmount()
    assert guest.call("stat", path=f"{TOP}/mtls/marked/{MARKED}")["size"] == SIZE
    guest.call("remove", path=f"{TOP}/mtls/marked")
    assert calls(packets, NFS_PORT) == [[str(NFS), *PROBE]]
    assert_unseen(packets)
    said = calls(mounting, MOUNT_PORT)
    assert {call[0] for call in said} == {str(MOUNT)}
    assert "1" in [call[0] for call in clear_calls_of(MOUNT, said)]
    assert_unseen(mounting, least=0)


@pytest.mark.timeout(IDLE_SECONDS + 300)
def test_the_server_ends_an_idle_connection(guest: Guest, box: Sandbox, client: Host) -> None:
    """It looks every six minutes, and ends what was idle since the last time; the mount goes on."""
    (box.mountpoint / "file").write_text("before")
    first = sealed(client)
    assert event(client, "closed", now(), IDLE_SECONDS)["connection"] in first
    (box.mountpoint / "file").write_text("after a while")
    assert guest.call("read", path=FILE) == "after a while"
    assert sealed(client) not in ([], first)


def test_new_keys_while_it_writes(guest: Guest, box: Sandbox, client: Host) -> None:
    """As `auto` does it: knfsd would not bear a KeyUpdate."""
    before = guest.call("read", path="/proc/net/tls_stat")
    with writing(box.mountpoint / "file") as one:
        for megabytes in (2, 5, 8):
            one.reached(guest, FILE, megabytes)
            assert client.renew()[:2] == (0, 1)
        assert_written(guest, one.end())
    assert errors(guest.call("read", path="/proc/net/tls_stat")) == errors(before)


def test_a_key_update_while_it_writes(guest: Guest, box: Sandbox, client: Host) -> None:
    """The server ends the connection by it; what was under way is sent anew."""
    with writing(box.mountpoint / "file") as one:
        one.reached(guest, FILE, 3)
        first = sealed(client)
        assert client.renew(how="keyupdate")[0] == 1
        assert_written(guest, one.end())
    assert sealed(client) != first


def test_the_daemon_is_killed(guest: Guest, box: Sandbox, client: Host) -> None:
    """rpctlscd: its session goes on, the next one takes it, and can make another."""
    with writing(box.mountpoint / "file") as one:
        one.reached(guest, FILE, 3)
        killed = daemon_pid(client, "rpctlscd")
        kill(killed)
        until(lambda: other_daemon(client, killed), "another daemon", 60)
        assert client.renew()[:2] == (0, 1)
        assert_written(guest, one.end())


def other_daemon(client: Host, killed: int) -> bool:
    return any(one["pid"] != killed for one in client.stat()["daemons"])


def test_the_agent_is_killed(guest: Guest, box: Sandbox, pki: Pki, client: Host) -> None:
    """Who has a session keeps it; nobody gets one, until there is an agent again."""
    guest.call("stop_agent")
    (box.mountpoint / "file").write_text("without an agent")
    another = box.directory("another")
    with pytest.raises(WorldError):
        mount(box, pki, "mtls", "mtls", at=another)
    guest.call("start_agent", **pki.agent(pki.guest))
    mount(box, pki, "mtls", "mtls", at=another)
    assert (another / "file").read_text() == "without an agent"
    assert client.stat()


@pytest.mark.usefixtures("client")
def test_the_server_is_restarted(guest: Guest, box: Sandbox) -> None:
    """The mount waits, shakes hands anew and loses nothing."""
    with writing(box.mountpoint / "file") as one:
        one.reached(guest, FILE, 3)
        guest.call("stop_serving")
        serve(guest)
        assert_written(guest, one.end())


def test_the_client_is_killed(guest: Guest, box: Sandbox, pki: Pki, client: Host) -> None:
    """What it has synchronised is there, and it can mount again."""
    with writing(box.mountpoint / "file") as one:
        one.reached(guest, FILE, 3)
        kill(client.pid)
        assert "Error" in one.end()
    subprocess.run(["fusermount3", "-u", "-z", "--", box.mountpoint], check=True)
    mount(box, pki, "mtls", "mtls")
    assert_begins(box.mountpoint / "file", 3)
    (box.mountpoint / "file").write_text("again")
    assert guest.call("read", path=FILE) == "again"


def assert_begins(path: Path, megabytes: int) -> None:
    """It has what `fill` writes."""
    data = path.read_bytes()
    assert len(data) >= megabytes * MEGABYTE
    for count in range(megabytes):
        block = hashlib.sha256(str(count).encode()).digest() * (MEGABYTE // 32)
        assert data[count * MEGABYTE :][:MEGABYTE] == block


def errors(tls_stat: str) -> str:
    return next(line for line in tls_stat.splitlines() if "TlsDecryptError" in line)
