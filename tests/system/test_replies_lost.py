"""A call is done, its reply is lost: nothing is done twice, nothing is taken for a failure."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import patience
from tests.system.copies import SECONDS, size
from tests.system.live import Live, event, kill, now, until
from tests.system.relay import Relay, Way, shut

pytestmark = pytest.mark.long


def prepare(top: Path) -> None:
    (top / "file").write_text("text")
    (top / "empty").mkdir()
    (top / "log").write_text("some")


# What a user does, and how to see on the server that it has been done.
APPEND = "os.write(os.open('log', os.O_WRONLY | os.O_APPEND | os.O_SYNC), b' and more')"
Seen = Callable[[Path], bool]
ACTS: dict[str, tuple[str, Seen]] = {
    "mkdir": ("os.mkdir('new')", lambda top: (top / "new").is_dir()),
    "rmdir": ("os.rmdir('empty')", lambda top: not (top / "empty").exists()),
    "create": ("open('new', 'x')", lambda top: (top / "new").exists()),
    "unlink": ("os.unlink('file')", lambda top: not (top / "file").exists()),
    "symlink": ("os.symlink('file', 'new')", lambda top: (top / "new").is_symlink()),
    "link": ("os.link('file', 'new')", lambda top: (top / "new").exists()),
    "mkfifo": ("os.mkfifo('new')", lambda top: (top / "new").is_fifo()),
    "rename": ("os.rename('file', 'new')", lambda top: (top / "new").exists()),
    "replace": ("os.replace('file', 'log')", lambda top: not (top / "file").exists()),
    "append": (APPEND, lambda top: (top / "log").read_text() == "some and more"),
    "truncate": ("os.truncate('log', 2)", lambda top: size(top / "log") == 2),
}


# A new server does these once more, and that is the same.
REPEATABLE = ("append", "truncate")


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        *((name, "reply") for name in ACTS),
        *((name, "reply and server") for name in ACTS if name not in REPEATABLE),
    ],
)
def test_what_was_done_is_known(relayed: Live, relay: Relay, name: str, lost: str) -> None:
    """The call was executed, and its reply is lost: the user is told that it was executed.

    A server that lives knows the call again. One that was killed does not, and answers that the
    name is there already, or gone; then it is the client that has to know better.
    """
    act, seen = ACTS[name]
    path, there = (top / f"{name} {lost}" for top in (relayed.path, relayed.export))
    path.mkdir()
    prepare(path)
    connection = relay.current
    connection.replies.hold()
    with acting(act, path) as process:
        until(lambda: seen_and_unheard(connection.replies, lambda: seen(there)), f"{name} is done")
        assert process.poll() is None
        if lost == "reply and server":
            kill(relayed.server.pid)
            relayed.restart_server()
        connection.cut()
    assert seen(there)
    assert set(os.listdir(path)) == set(os.listdir(there))


@contextmanager
def acting(program: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the block; at its end it has to end well.

    It is a process because whoever forks while he has a file open on the mount closes it in the
    child, and waits for the server then: so would a test that is about to start that server.
    """
    program = f"import os; os.chdir({str(directory)!r}); {program}"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield process
        assert process.wait(patience(SECONDS)) == 0
    finally:
        process.kill()
        process.wait()


def seen_and_unheard(replies: Way, seen: Callable[[], bool]) -> bool:
    """Whether it has been done, which its reply here says: a name is there before its times are
    set, and a server that dies in between has not executed the call. As long as it has not been
    done, the replies to other calls may pass."""
    if replies.waiting and not seen():
        # A reply is sent when its call is done: this one belongs to another call.
        replies.let_one_record_go()
    return seen() and replies.waiting > 0


def test_a_write_that_comes_late_changes_nothing(relayed: Live, relay: Relay) -> None:
    """A copy of it is on the way over a connection that the client has given up."""
    path = relayed.path / "late"
    path.write_bytes(bytes(4096))
    late = relay.current
    late.calls.hold()
    write = "open('late', 'r+b').write(b'%d' * 4096)"
    with acting(write % 1, relayed.path):
        until(lambda: passed_on_or_writing(late.calls), "the WRITE is on its way")
        shut(late.client)
    with acting(write % 2, relayed.path):
        pass
    since = now()
    late.calls.let_go()
    shut(late.server, socket.SHUT_WR)
    event(relayed.server, "closed", since)
    assert path.read_bytes() == (relayed.export / "late").read_bytes() == b"2" * 4096


def passed_on_or_writing(calls: Way) -> bool:
    """Whether the WRITE of a page is held; shorter calls may pass."""
    if calls.waiting > 4096:
        return True
    calls.let_one_record_go()
    return False
