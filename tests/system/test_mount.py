"""A mount's life as a user has it: it works when the command returns, and goes without a trace."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.conftest import MOUNT_SECONDS
from tests.system.live import ended, event, in_foreground, kill, needs_fuse, run, tracing, until
from tests.system.mounting import TEXT, assert_gone, clients, mount, server, source, umktls
from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.cli.umount import mounts
from umktls.kernel.host.commands import program_path


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A server with a file on it."""
    needs_fuse()
    with Sandbox("mount") as one:
        layout.create(one.certs)
        (one.export / "file").write_text(TEXT)
        one.serve("--certs", str(one.certs))
        yield one


@pytest.fixture
def place(box: Sandbox, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory to mount on; nothing is mounted there afterwards."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    path = box.directory(name)
    yield path
    box.unmount()  # its process has ended then, too


# ---- begin and end


def test_it_works_when_the_command_returns(box: Sandbox, place: Path) -> None:
    host = mount(box, place)
    assert (place / "file").read_text() == TEXT
    assert mounts()[place] == "fuse.umktls"
    assert os.getsid(host.pid) == host.pid
    assert host.facts["mount"]["mountpoint"] == str(place)
    assert host.rundir.stat().st_mode & 0o777 == 0o700
    (place / "new").write_text("text")
    assert (box.export / "new").read_text() == "text"
    os.kill(host.pid, signal.SIGHUP)
    assert "0 sessions" in event(host, "reloaded")["outcome"]
    assert (place / "new").read_text() == "text"


End = Callable[[Sandbox, Path, Host], object]
ENDS: dict[str, End] = {
    "umktls umount": lambda box, place, host: umktls(box, "umount", place),
    "fusermount3 -u": lambda box, place, host: run("fusermount3", "-u", place),
    "umount": lambda box, place, host: run("umount", place),
    "SIGTERM": lambda box, place, host: os.kill(host.pid, signal.SIGTERM),
    "SIGINT": lambda box, place, host: os.kill(host.pid, signal.SIGINT),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_way_to_end_it(box: Sandbox, place: Path, how: str) -> None:
    if how == "umount" and os.geteuid() != 0:
        pytest.skip("umount(8) is for root")
    host = mount(box, place)
    (place / how).write_bytes(b"x" * 3_000_000)
    ENDS[how](box, place, host)
    assert_gone(box, place, host)
    assert (box.export / how).read_bytes() == b"x" * 3_000_000
    names = [found["event"] for found in server(box).trace()]
    assert "garbage" not in names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_loses_nothing_that_was_written(
    box: Sandbox, place: Path, number: signal.Signals
) -> None:
    """Also of files that are still open, for which nobody has called fsync(2)."""
    host = mount(box, place)
    name = f"open at {number.name}"
    descriptor = os.open(place / name, os.O_CREAT | os.O_WRONLY)
    try:
        for piece in range(30):
            os.write(descriptor, bytes([piece]) * 100_000)
        kill(host.pid, number)
        assert_gone(box, place, host)
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.write(descriptor, b"too late")
    finally:
        # Closing says that the mount is gone, too.
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.close(descriptor)
    written = (box.export / name).read_bytes()
    assert written == b"".join(bytes([piece]) * 100_000 for piece in range(30))


def test_a_mount_whose_process_was_killed(box: Sandbox, place: Path) -> None:
    """FUSE leaves a dead mount behind; it can be seen, it can be taken away, and mounted anew."""
    host = mount(box, place)
    (daemon,) = host.stat()["daemons"]
    kill(host.pid)
    assert ended(daemon["pid"])
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        (place / "file").read_text()
    refused = umktls(box, "mount", source(box), place, "--certs", box.certs, code=32)
    assert f"umktls umount {place}" in refused
    umktls(box, "umount", place)
    assert_gone(box, place, host)
    mount(box, place)
    assert (place / "file").read_text() == TEXT


def test_a_mount_in_use_stays(box: Sandbox, place: Path) -> None:
    host = mount(box, place)
    with (place / "file").open() as file:
        assert "is in use" in umktls(box, "umount", place, code=1)
        assert file.read() == TEXT
    assert (place / "file").read_text() == TEXT
    umktls(box, "umount", place)
    assert_gone(box, place, host)


def test_a_mount_in_use_can_be_detached(box: Sandbox, place: Path) -> None:
    """`umount -l` comes back at once; the mount's process waits for who uses it."""
    host = mount(box, place)
    with (place / "file").open() as file:
        umktls(box, "umount", "-l", place)
        assert place not in mounts()
        assert file.read() == TEXT
        assert [client.pid for client in clients(box)] == [host.pid]
    assert_gone(box, place, host)


def test_what_is_no_mount(box: Sandbox, place: Path) -> None:
    assert "nothing is mounted" in umktls(box, "umount", place, code=1)


def test_in_the_foreground(box: Sandbox, place: Path) -> None:
    """It says when it works, and ends as told, with success."""
    words = ("mount", "-f", source(box), place, "--certs", box.certs)
    with in_foreground(box, *words) as (process, line):
        assert line == "mounted\n"
        (host,) = clients(box)
        assert host.pid == process.pid
        assert (place / "file").read_text() == TEXT
        process.send_signal(signal.SIGHUP)  # as when the terminal goes
        assert process.wait(patience(MOUNT_SECONDS)) == 0
    assert_gone(box, place, host)


def test_in_the_foreground_with_nobody_who_reads(box: Sandbox, place: Path) -> None:
    """It ended the mount."""
    words = ("mount", "-f", source(box), place, "--certs", box.certs)
    reading, writing = os.pipe()
    os.close(reading)
    command = [program_path("umktls"), *map(str, words)]
    environment, nowhere = box.environment(), subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=writing, stderr=nowhere) as process:
        os.close(writing)
        try:
            until(lambda: place in mounts(), "mounted")
            assert (place / "file").read_text() == TEXT
            umktls(box, "umount", place)
            assert process.wait(patience(MOUNT_SECONDS)) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"], ids=["0", "1", "2", "012"]
)
def test_with_closed_descriptors(box: Sandbox, place: Path, closed: str) -> None:
    """It was a traceback, or a socket had the number of standard error."""
    words = ("mount", source(box), place, "--certs", box.certs)
    script = (f'exec "$@" {closed}', "sh", program_path("umktls"))
    run("sh", "-c", *script, *words, env=box.environment())
    (host,) = clients(box)
    own = [os.readlink(f"/proc/{host.pid}/fd/{number}") for number in range(3)]
    assert own == [os.devnull, *[str(host.rundir / "host.log")] * 2]
    assert (place / "file").read_text() == TEXT
    umktls(box, "umount", place)
    assert_gone(box, place, host)


@pytest.mark.parametrize("by_name", [True, False])
def test_by_mount_8(box: Sandbox, place: Path, by_name: bool) -> None:
    """As from /etc/fstab. mount(8) finds programs only in the system's directories, and this one
    need not be there: so mount.fuse3(8) is called as mount(8) would, or told where it is."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) is for root")
    program = program_path("umktls")
    environment = box.environment()
    environment["PATH"] = f"{Path(program).parent}:{environment['PATH']}:/usr/sbin:/sbin"
    options = f"mtls,certs={box.certs},ro,_netdev,nofail,x-systemd.automount"
    if by_name:
        command: tuple[object, ...] = (
            "mount.fuse3",
            source(box),
            place,
            "-t",
            "fuse.umktls",
            "-o",
            options,
        )
    else:
        command = ("mount", "-t", "fuse", "-o", options, f"{program}#{source(box)}", place)
    run(*command, env=environment)
    (host,) = clients(box)
    assert mounts()[place] == "fuse.umktls"
    assert (place / "file").read_text() == TEXT
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (place / "new").touch()
    run("umount", place)
    assert_gone(box, place, host)


# ---- options


def test_read_only(box: Sandbox, place: Path) -> None:
    mount(box, place, "-o", "tls,ro")
    assert (place / "file").read_text() == TEXT
    for forbidden in (
        lambda: (place / "file").write_text("other"),
        lambda: (place / "new").touch(),
        lambda: (place / "file").unlink(),
        lambda: (place / "file").chmod(0o600),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            forbidden()
    assert (box.export / "file").read_text() == TEXT


@pytest.mark.long
def test_two_mounts_at_the_same_time(box: Sandbox, place: Path) -> None:
    first, second = place / "first", place / "second"
    first.mkdir()
    second.mkdir()
    one, two = mount(box, first), mount(box, second, "-o", "tls")
    assert len(clients(box)) == 2
    (first / "shared").write_text("by the first")
    assert (second / "shared").read_text() == "by the first"
    (second / "shared").write_text("by the second")
    assert (first / "shared").read_text() == "by the second"
    umktls(box, "umount", first)
    assert ended(one.pid)
    assert (second / "shared").read_text() == "by the second"
    umktls(box, "umount", second)
    assert_gone(box, second, two)


# ---- looking at it


def test_stat_shows_the_connection(box: Sandbox, place: Path) -> None:
    host = mount(box, place)
    (place / "counted").write_bytes(bytes(100_000))
    told = json.loads(umktls(box, "stat", "--json"))
    assert told["schema"] == 1
    sides = {state["host"]["role"]: state for state in told["hosts"]}
    assert sides["client"]["host"]["pid"] == host.pid
    assert sides["client"]["mount"]["mountpoint"] == str(place)
    assert sides["client"]["mount"]["security"] == "mtls"
    assert sides["server"]["exports"] == [str(box.export)]
    (ours,) = sides["client"]["connections"]
    theirs = [one for one in sides["server"]["connections"] if one["peer"] == ours["local"]][-1]
    assert ours["peer"] == theirs["local"]
    for connection, peer in ((ours, "localhost"), (theirs, "umktls client")):
        assert connection["state"] == "established"
        assert connection["tls"]["version"] == "TLSv1.3"
        assert connection["tls"]["alpn"] == "sunrpc"
        assert peer in connection["tls"]["peer"]
        for half in (connection["tx"], connection["rx"]):
            assert half["engine"] == "software"
            assert half["mode"] == "SW"
            assert half["records"] > 0
            assert half["sequence"] > 0
    assert ours["tx"]["bytes"] > 100_000
    assert ours["tx"]["bytes"] == theirs["rx"]["bytes"]
    assert ours["tx"]["records"] == theirs["rx"]["records"]
    assert ours["upcalls"]["connect"] == theirs["upcalls"]["connect"] == 1
    assert ours["upcalls"]["handlerecord"] == 2
    for_people = umktls(box, "stat")
    for word in (host.name, server(box).name, str(place), "TLS_AES_128_GCM_SHA256", "software"):
        assert word in for_people


STORY = ["tcp-connect", "probe", "starttls", "upcall", "socket-taken", "tx-keys", "rx-keys"]


def test_trace_tells_the_story(box: Sandbox, place: Path) -> None:
    host = mount(box, place)
    lines = umktls(box, "trace", "--json", "--past", host.name).splitlines()
    events = [json.loads(line) for line in lines]
    assert [found["event"] for found in events if found["event"] in STORY][: len(STORY)] == STORY
    assert {found["side"] for found in events} == {"client"}
    for_people = umktls(box, "trace", "--past")
    assert "STARTTLS" in for_people
    assert server(box).name in for_people


def test_trace_follows(box: Sandbox, place: Path) -> None:
    with tracing(box, "--since", "3600", server(box).name) as process:
        assert process.stdout is not None
        # Who gets an event of the past gets all that come from now on.
        assert json.loads(process.stdout.readline())["event"] == "host-up"
        (connection,) = mount(box, place).stat()["connections"]
        events = map(json.loads, process.stdout)
        accepted = next(one for one in events if one.get("peer") == connection["local"])
        assert accepted["event"] == "tcp-accept"
        handshake = next(one for one in events if one["event"] == "handshake")
        assert handshake["connection"] == accepted["connection"]
        process.send_signal(signal.SIGINT)
        assert process.wait(patience(MOUNT_SECONDS)) == 0
