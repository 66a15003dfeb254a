"""The client of the control socket, against hosts that answer as they are told to."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.fakes import describe, fake_host
from umktls.cli import control
from umktls.errors import CallerError, PeerError, WorldError
from umktls.kernel.host import rundir


def dead_process() -> int:
    """The number of a process that has ended and was waited for."""
    child = subprocess.Popen(["true"])
    child.wait(10)
    return child.pid


def test_stat_asks_and_returns_the_line(tmp_path: Path) -> None:
    with fake_host(tmp_path, "server-1", {"stat": [b'{"schema": 1}']}) as requests:
        (host,) = control.find_hosts(tmp_path)
        assert host.stat() == {"schema": 1}
    assert requests == [{"op": "stat"}]


def test_no_socket_is_one_clear_error(tmp_path: Path) -> None:
    describe(tmp_path, "server-1")
    (host,) = control.find_hosts(tmp_path)
    with pytest.raises(WorldError, match=r"server-1 does not answer on .*control\.sock: No such"):
        host.stat()


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_one_error(answer: bytes) -> None:
    with pytest.raises(PeerError, match="the host answered what is not"):
        control.parse_answer_untrusted(answer)


def test_a_refusal_is_passed_on() -> None:
    with pytest.raises(PeerError, match="the host refused: no operation"):
        control.parse_answer_untrusted(b'{"error": "no operation", "errno": "EINVAL"}')


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_peer_error(line: bytes) -> None:
    try:
        answer = control.parse_answer_untrusted(line)
    except PeerError:
        return
    assert isinstance(answer, dict)


def test_dead_host_is_ignored_and_removed(tmp_path: Path) -> None:
    dead = describe(tmp_path, "client-9", pid=dead_process())
    living = describe(tmp_path, "server-1")
    assert [host.rundir for host in control.find_hosts(tmp_path)] == [living]
    assert not dead.exists()


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert not rundir.running(child.pid)
    child.wait()
    assert not rundir.running(child.pid)
    assert rundir.running(os.getpid())


@pytest.mark.parametrize("content", ["", "{}", '{"pid": "x"}', '{"pid": 0}', "[]", "null"])
def test_a_directory_that_is_not_a_host_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "host.json").write_text(content)
    assert control.find_hosts(tmp_path) == []
    assert (tmp_path / "odd" / "host.json").exists()


def test_no_base_means_no_hosts(tmp_path: Path) -> None:
    assert control.find_hosts(tmp_path / "nowhere") == []


def test_choose_by_name_number_and_directory(tmp_path: Path) -> None:
    server = describe(tmp_path, "server-1")
    describe(tmp_path, "client-2", pid=os.getppid())

    def chosen(name: str | None) -> list[str]:
        return [host.name for host in control.choose(name, tmp_path)]

    assert chosen(None) == ["client-2", "server-1"]
    assert chosen("server-1") == ["server-1"]
    assert chosen(str(os.getppid())) == ["client-2"]
    assert chosen(str(server)) == ["server-1"]


@pytest.mark.parametrize(
    ("name", "names", "text"),
    [
        (None, (), "no host runs "),
        ("server-7", (), "no host runs "),
        ("server-7", ("server-1",), "no host is called server-7; there are: server-1"),
        ("/no/such", (), "no host has its run directory at /no/such"),
    ],
)
def test_choose_says_what_there_is(
    tmp_path: Path, name: str | None, names: tuple[str, ...], text: str
) -> None:
    for running in names:
        describe(tmp_path, running)
    with pytest.raises(CallerError) as caught:
        control.choose(name, tmp_path)
    assert text in str(caught.value)


def test_a_host_that_hangs_up_is_an_error(tmp_path: Path) -> None:
    with fake_host(tmp_path, "server-1", {"stat": []}):
        (host,) = control.find_hosts(tmp_path)
        with pytest.raises(PeerError, match="server-1 hung up without an answer"):
            host.stat()


def test_a_host_of_another_user_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SO_PEERCRED tells who listens, whatever lies in the run directory."""
    with fake_host(tmp_path, "server-1", {"stat": [b'{"schema": 1}']}) as requests:
        (host,) = control.find_hosts(tmp_path)
        monkeypatch.setattr(control, "peer_credentials", lambda sock: (99, 4711, 4711))
        with pytest.raises(CallerError, match=r"process 99 of another user .*4711.* listens on"):
            host.stat()
        with pytest.raises(CallerError, match="listens on"):
            list(host.trace())
    assert requests == []


@pytest.mark.parametrize("owner", [4711, 4712])
def test_root_may_ask_the_host_of_whose_the_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    with fake_host(tmp_path, "server-1", {"stat": [b'{"schema": 1}']}):
        os.chown(tmp_path / "server-1", owner, owner)
        monkeypatch.setattr(control, "peer_credentials", lambda sock: (99, 4711, 4711))
        (host,) = control.choose(str(tmp_path / "server-1"))
        if owner == 4711:
            assert host.stat() == {"schema": 1}
            return
        with pytest.raises(CallerError, match="listens on"):
            host.stat()


def test_a_silent_host_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.05)
    rundir = describe(tmp_path, "server-1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(rundir / "control.sock"))
        listener.listen()
        (host,) = control.find_hosts(tmp_path)
        with pytest.raises(WorldError, match=r"server-1 does not answer .*: timed out"):
            host.stat()
