"""`umktls ls`, `cat`, `cp` and the like, with a server in the same process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import pytest
import trio
from click.testing import CliRunner, Result
from umktls_fs import reach
from umktls_fs.tree import Tree
from umktls_fs.url import Url
from umktls_fs.urlcommands import cat, ls, nfs_stat
from umktls_fs.urlcopies import cp, put, rm

from tests.conftest import patience
from tests.fs.place import Place
from tests.fs.silence import unanswered
from umktls.errors import WorldError

SERVER = "nfs://server"


class Servers:
    """In the place of what is reached by way of a network; `silent`: the hosts that say nothing."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.silent: set[str] = set()
        self.asked: list[str] = []

    async def at(self, url: Url) -> tuple[Tree, bytes]:
        self.asked.append(url.host)
        if url.host in self.silent:
            raise WorldError(f"{url.host} does not answer", errno.ETIMEDOUT)
        return self.place.tree, url.path


@pytest.fixture
def servers(place: Place, monkeypatch: pytest.MonkeyPatch) -> Servers:
    (place.export / "d").mkdir()
    (place.export / "file").write_text("hello")
    made = Servers(place)

    @asynccontextmanager
    async def reaching(*of: object) -> AsyncIterator[Servers]:
        yield made

    monkeypatch.setattr(reach, "reaching", reaching)
    monkeypatch.setattr(reach, "run", trio.run)
    return made


def asked(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


@pytest.mark.parametrize("command", [ls, cat, nfs_stat, rm, cp])
def test_the_exit_code_says_that_something_failed(servers: Servers, command: click.Command) -> None:
    """And the rest is done."""
    here = [servers.place.local] if command is cp else []
    found = asked(command, f"{SERVER}/no", f"{SERVER}/file", *here)
    assert found.exit_code == 1
    assert f"{servers.place.export}/no: No such file or directory" in found.output
    assert (servers.place.export / "file").exists() is (command is not rm)
    if command is cp:
        assert (servers.place.local / "file").read_text() == "hello"
    elif command is not rm:
        assert {ls: "\nfile\n", cat: "hello", nfs_stat: "5 bytes"}[command] in found.output


@pytest.mark.parametrize("command", [ls, cat, nfs_stat, rm])
def test_the_exit_code_says_that_nothing_failed(servers: Servers, command: click.Command) -> None:
    assert asked(command, f"{SERVER}/file").exit_code == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [("d", "this is a directory, and no file"), ("fifo", "this is a FIFO, and no file")],
)
def test_only_files_are_put_out(servers: Servers, name: str, said: str) -> None:
    os.mkfifo(servers.place.export / "fifo")
    found = asked(cat, f"{SERVER}/{name}")
    assert found.exit_code == 1
    assert said in found.output


def test_one_source_may_get_a_new_name(servers: Servers) -> None:
    found = asked(cp, f"{SERVER}/file", servers.place.local / "new")
    assert found.exit_code == 0
    assert (servers.place.local / "new").read_text() == "hello"


def test_several_sources_need_a_directory(servers: Servers) -> None:
    found = asked(cp, f"{SERVER}/file", f"{SERVER}/file", servers.place.local / "new")
    assert found.exit_code == 2
    assert "is no directory, and there are several sources" in found.output


def test_a_server_that_is_silent_ends_it_all(servers: Servers) -> None:
    """Each of the other URLs would be waited for as long."""
    servers.silent.add("silent")
    found = asked(ls, "nfs://silent/", f"{SERVER}/")
    assert isinstance(found.exception, WorldError)
    assert servers.asked == ["silent"]


@pytest.mark.parametrize("command", [cp, put])
def test_a_server_that_becomes_silent_ends_a_copy(servers: Servers, command: click.Command) -> None:
    """Before the second source."""
    place = servers.place
    for source in ("one", "two"):
        (place.local / source).write_text(source)
    unanswered(place.caller, "CREATE")
    found = asked(command, place.local / "one", place.local / "two", f"{SERVER}/d/")
    assert isinstance(found.exception, WorldError)
    assert place.caller.counts()["CREATE"] == 1


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (ls, ["/srv"]),
        (cat, [f"{SERVER}/file", "file"]),
        (cp, ["nfs://server:no/file", "."]),
        (cp, ["file", "nfs://server:no/"]),
        (put, ["/dev/null", "/srv"]),
    ],
)
def test_what_is_no_url_is_wrong_usage(command: click.Command, arguments: list[str]) -> None:
    found = asked(command, *arguments)
    assert (found.exit_code, found.exception.__class__) == (2, SystemExit)
    assert found.output.startswith("Usage: ")


def test_a_signal_ends_a_command_and_is_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it has begun is cleaned up."""
    cleaned = []

    async def work() -> None:
        try:
            with trio.fail_after(patience(20)):
                os.kill(os.getpid(), signal.SIGTERM)
                await trio.sleep_forever()
        finally:
            cleaned.append("up")

    monkeypatch.setattr(reach, "keep_memory_private", lambda: None)
    with pytest.raises(click.exceptions.Exit) as caught:
        reach.run(work)
    assert (caught.value.exit_code, cleaned) == (128 + signal.SIGTERM, ["up"])
    assert "ended by SIGTERM" in capsys.readouterr().err
