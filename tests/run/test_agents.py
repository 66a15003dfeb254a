"""Unmodified handshake agents under `umktls run --host`, with a host that is played."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.run.played_host import FAMILY, GROUP, PlayedHost, u32
from tests.run.programs import Program, c_agent, figures_of, started, under_run
from umktls.upcall import syscalls as wire

CALLS = Path(__file__).with_name("agents") / "netlink_calls.py"

SAID = """True True True
(0, 0)
True EINVAL
EADDRINUSE EAGAIN False
True (123456, 0) ENOPROTOOPT ENOPROTOOPT
True
True True
True 0 (0, 0)
True
36 (2, 256, 77, {pid}, 0) (0, 0)
True 36
True -2 True
1 0
36
ECONNREFUSED EPERM ENODATA
36 EAGAIN
77 36
EINVAL None {mask}
-95
child True 36
True
EAGAIN
end
"""

TAKEN = """False 127.0.0.1 True
b'hello'
ENOPROTOOPT None
b'tls\\x00' None
6 2 EAGAIN
ENOPROTOOPT
end
"""


@pytest.fixture
def played(tmp_path: Path) -> Iterator[PlayedHost]:
    rundir = tmp_path / "run"
    rundir.mkdir()
    with PlayedHost(rundir) as host:
        yield host


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The agent in C."""
    return c_agent(tmp_path_factory.mktemp("agent"))


def agent_of(host: PlayedHost) -> list[str]:
    return under_run("--host", str(host.rundir))


@pytest.mark.long
def test_netlink_sockets_are_as_linux_has_them(played: PlayedHost) -> None:
    command = [*agent_of(played), "python3", "-u", str(CALLS), str(GROUP), str(FAMILY)]
    done = subprocess.run(command, capture_output=True, timeout=patience(60), check=False)
    said = done.stdout.decode()
    pid = said.partition("36 (2, 256, 77, ")[2].partition(",")[0]
    # A group above 32 is in no mask.
    assert said == SAID.format(pid=pid, mask=0), done.stderr.decode()
    counted = figures_of(done.stderr.decode())["agent"]
    assert counted["accepted"] == 0
    assert counted["requests"] == 7


@pytest.mark.long
def test_what_is_set_on_a_taken_socket_is_the_hosts(played: PlayedHost) -> None:
    """In whichever process, under whichever number; other sockets stay what they are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        peer.sendall(b"hello")
        played.requests.append((ours, b""))
        script = CALLS.with_name("taken_calls.py")
        command = [*agent_of(played), "python3", "-u", str(script), str(FAMILY)]
        with ours, peer:
            done = subprocess.run(command, capture_output=True, timeout=patience(60), check=False)
            assert peer.recv(100) == b"in clear"
    assert done.stdout.decode() == TAKEN, done.stderr.decode()
    (number,) = played.given
    made = [played.calls.get_nowait() for _ in range(played.calls.qsize())]
    set_there = [(each.level, each.name) for each in made if isinstance(each, wire.SetsockoptArgs)]
    assert set_there == [(282, 99), (6, 31), (282, 1), (282, 2)]
    sent = [each for each in made if isinstance(each, wire.SendmsgArgs)]
    assert [bytes(each.data) for each in sent] == [b"sealed", b"\1\0"]
    assert bytes(sent[1].control)[16:17] == b"\x15"
    assert {each.fd for each in sent} == {number}


@pytest.mark.long
def test_libnl_finds_the_family_and_joins_the_group(
    played: PlayedHost, agent: str, tmp_path: Path
) -> None:
    with started(Program([*agent_of(played), agent], tmp_path, ktls=False)) as program:
        line = program.wait_for(b"member")
        assert line == b"member of %d, family %d\n" % (GROUP, FAMILY)
        played.ready()
        program.wait_for(b"ready")
        assert b"accept: " in program.wait_for(b"accept")
    assert len(played.members) <= 1


@pytest.mark.long
def test_a_taken_socket_is_the_callers_under_its_own_number(
    played: PlayedHost, agent: str, tmp_path: Path
) -> None:
    """The handshake fails here (the peer hangs up); DONE names the socket by the host's number."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    peer.shutdown(socket.SHUT_RDWR)
    peer.close()
    played.requests.append((ours, u32(3, 1) + u32(5, 1)))
    with ours, started(Program([*agent_of(played), agent], tmp_path, ktls=False)) as program:
        program.wait_for(b"member")
        played.ready()
        assert b"fd>2:1 cloexec:1 type:1 auth:1 peername:\n" in program.wait_for(b"accept")
        assert program.wait_for(b"done") == b"done 13: ok\n"
        (number,) = played.given
        assert played.finished == {number}
        while True:  # the child has ended, and nobody has it any more
            args = played.calls.get(timeout=patience(20))
            if isinstance(args, wire.CloseArgs) and args.fd == number:
                break


@pytest.mark.long
def test_an_agent_ends_with_its_host(played: PlayedHost, agent: str, tmp_path: Path) -> None:
    with started(Program([*agent_of(played), agent], tmp_path, ktls=False)) as program:
        program.wait_for(b"member")
        played.close()
        assert program.process.wait(patience(20))
    assert "has ended" in program.errors


@pytest.mark.long
def test_a_host_without_the_family_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [*under_run("--host", "nonesuch"), "true"],
        capture_output=True,
        timeout=patience(20),
        check=False,
    )
    assert done.returncode == 2
    assert b"no host" in done.stderr
