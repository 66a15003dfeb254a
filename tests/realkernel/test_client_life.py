"""What happens to a real Linux's mounts of `umktls serve` while they last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.realkernel.guest import Guest, GuestError
from tests.realkernel.heard import MARKED, PROBE, SIZE, TEXT, assert_unseen, calls, clear_calls_of
from tests.realkernel.inside.nfsd import MOUNT, NFS
from tests.realkernel.inside.work import tree
from tests.realkernel.pki import Pki
from tests.realkernel.serving import Served, served
from tests.system.live import daemon_pid, kill, until
from tests.system.test_capture import capturing

AT = "/mnt/a"
IDLE_SECONDS = 304


@pytest.fixture
def server(pki: Pki) -> Iterator[Served]:
    with served(pki) as one:
        yield one


@pytest.fixture(autouse=True)
def agent(guest: Guest, pki: Pki) -> None:
    guest.call("start_agent", **pki.agent(pki.guest))


def mount(guest: Guest, server: Served, level: str = "mtls", more: str = "") -> None:
    options = server.mount_options(level, more)
    guest.call("mount", source=server.source(level), at=AT, options=options)


def test_by_mount_nfs(guest: Guest, server: Served) -> None:
    """As people type it."""
    options = f"vers=3,{server.ports},nolock,xprtsec=mtls"
    guest.run("mkdir", "-p", AT)
    guest.run("mount", "-t", "nfs", "-o", options, server.source("mtls"), AT)
    guest.call("write", path=f"{AT}/file", text="by mount.nfs")
    assert (server.path("mtls") / "file").read_text() == "by mount.nfs"
    guest.run("umount", AT)


def test_nconnect(guest: Guest, server: Served) -> None:
    """Four connections, each with a handshake of its own, and all of them used."""
    made = tree(str(server.path("mtls") / "tree"))
    mount(guest, server, more=",nconnect=4")
    assert guest.call("hashes", top=f"{AT}/tree", deadline=300) == made
    sessions = [one for one in server.server.stat()["connections"] if one.get("tls")]
    assert len(sessions) == 4


def test_new_keys_while_it_writes(guest: Guest, server: Served) -> None:
    """As `auto` does it: this kernel's client would not bear a KeyUpdate (nor do later ones)."""
    mount(guest, server)
    before = guest.call("read", path="/proc/net/tls_stat")
    writing = guest.start("fill", path=f"{AT}/file")
    for size in (2 << 20, 5 << 20, 8 << 20):
        reached(server, size)
        assert server.server.renew()[:2] == (0, 1)
    assert_written(guest, server, writing)
    assert errors(guest.call("read", path="/proc/net/tls_stat")) == errors(before)


def test_the_daemon_is_killed(guest: Guest, server: Served) -> None:
    """rpctlssd: its sessions go on, and the next one takes them."""
    mount(guest, server)
    writing = guest.start("fill", path=f"{AT}/file")
    reached(server, 3 << 20)
    killed = daemon_pid(server.server, "rpctlssd")
    kill(killed)
    until(lambda: other_daemon(server, killed), "another daemon", 60)
    assert_written(guest, server, writing)


def other_daemon(server: Served, killed: int) -> bool:
    return any(one["pid"] != killed for one in server.server.stat()["daemons"])


def test_the_server_is_restarted(guest: Guest, server: Served) -> None:
    """A hard mount waits, shakes hands anew and loses nothing."""
    mount(guest, server)
    writing = guest.start("fill", path=f"{AT}/file")
    reached(server, 3 << 20)
    server.restart()
    assert_written(guest, server, writing)


def test_the_agent_is_killed(guest: Guest, pki: Pki, server: Served) -> None:
    """Who has a session keeps it; nobody gets one, until there is an agent again."""
    mount(guest, server)
    guest.call("stop_agent")
    guest.call("write", path=f"{AT}/file", text="without an agent")
    options = server.mount_options("tls")
    with pytest.raises(GuestError, match="ProcessLookupError"):
        guest.call("mount", source=server.source("tls"), at="/mnt/b", options=options)
    guest.call("start_agent", **pki.agent(pki.guest))
    guest.call("mount", source=server.source("tls"), at="/mnt/b", options=options)


def test_nothing_in_clear(guest: Guest, server: Served) -> None:
    """MOUNT is, on a connection of its own, and so are the probe and the answer to it: all that
    tshark reads as RPC. Of NFS there is no call, and of a file no byte."""
    packets = server.box.top / "packets.pcapng"
    with capturing(packets, server.port):
        mount(guest, server)
        guest.call("write", path=f"{AT}/{MARKED}", text=TEXT)
        guest.run("ls", "-l", AT)
        guest.call("unmount", at=AT)
    assert (server.path("mtls") / MARKED).stat().st_size == SIZE
    said = calls(packets, server.port)
    assert [call for call in said if call[0] == str(NFS)] == [[str(NFS), *PROBE]], said
    assert "1" in [call[0] for call in clear_calls_of(MOUNT, said)]
    assert_unseen(packets)


def test_idle(guest: Guest, server: Served) -> None:
    """For five minutes, which is when Linux ends a connection itself (XS_IDLE_DISC_TO): it is there
    still, or there is one more, and what is written arrives."""
    mount(guest, server)
    first = [one["id"] for one in server.server.stat()["connections"] if one.get("tls")]
    guest.run("sleep", IDLE_SECONDS, seconds=IDLE_SECONDS + 60)
    guest.call("write", path=f"{AT}/file", text="after a while")
    last = [one["id"] for one in server.server.stat()["connections"] if one.get("tls")]
    assert first
    assert last[: len(first)] == first
    assert len(last) <= len(first) + 1
    assert (server.path("mtls") / "file").read_bytes() == b"after a while"


def reached(server: Served, size: int) -> None:
    """Until so much of the file has come."""
    file = server.path("mtls") / "file"
    until(lambda: file.exists() and file.stat().st_size >= size, f"{size} bytes of {file}", 120)


def assert_written(guest: Guest, server: Served, writing: Future[str]) -> None:
    """All that was written is there; it was being written until now."""
    assert not writing.done()
    guest.call("enough")
    digest = writing.result(300)
    assert hashlib.sha256((server.path("mtls") / "file").read_bytes()).hexdigest() == digest


def errors(tls_stat: str) -> str:
    return next(line for line in tls_stat.splitlines() if "TlsDecryptError" in line)
