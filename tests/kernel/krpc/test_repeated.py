"""Calls that are sent again to a server that has forgotten them: what a user is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nfsd.client import Client
from umktls.kernel.krpc.repeated import RULES, done_already
from umktls.nfs import types
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import (
    SERVER_TIME,
    LOOKUP3resok,
    createhow3,
    createmode3,
    diropargs3,
    ftype3,
    mknoddata3,
    nfsstat3,
    nfstime3,
    sattr3,
    specdata3,
    symlinkdata3,
)
from umktls.nfsd import Export, NfsServer
from umktls.rpc.program import Procedure


class Forgetful:
    """A server that knows no call again, and what the client makes of its answers."""

    def __init__(self, client: Client, export: Path) -> None:
        self.client = client
        self.export = export
        self.root = client.mount()
        self.asked: list[str] = []

    def where(self, name: str) -> diropargs3:
        return diropargs3(self.root, name.encode())

    def handle(self, name: str) -> bytes:
        return self.client.lookup(self.root, name.encode())

    async def ask(self, procedure: Procedure[Any, Any], args: Any) -> Any:
        self.asked.append(procedure.name)
        return self.client.result(NFS3, procedure.name, args)

    async def judged(self, name: str, *args: Any) -> Any:
        """The result of a call that was sent before, with or without effect."""
        its_args = getattr(types, f"{name}3args")(*args)
        result = self.client.result(NFS3, name, its_args)
        return await done_already(self.ask, NFS3[name], its_args, result)


@pytest.fixture
def server(tmp_path: Path) -> Forgetful:
    export = tmp_path / "export"
    export.mkdir()
    nfsd = NfsServer([Export(str(export), squash="none")], tmp_path / "state")
    return Forgetful(Client(nfsd), export)


Arguments = Callable[[Forgetful], tuple[Any, ...]]
FIFO = mknoddata3(ftype3.NF3FIFO, sattr3(mode=0o600))

MARK = nfstime3(1_700_000_000, 123_456_789)
MARKED = createhow3(createmode3.GUARDED, sattr3(mode=0o600, atime=MARK))

# procedure: its arguments, once there are the file "file", the directory "empty" and a link
CALLS: dict[str, Arguments] = {
    "CREATE": lambda s: (s.where("new"), MARKED),
    "MKDIR": lambda s: (s.where("new"), sattr3(mode=0o700)),
    "SYMLINK": lambda s: (s.where("new"), symlinkdata3(sattr3(), b"target")),
    "MKNOD": lambda s: (s.where("new"), FIFO),
    "LINK": lambda s: (s.handle("file"), s.where("new")),
    "REMOVE": lambda s: (s.where("file"),),
    "RMDIR": lambda s: (s.where("empty"),),
    "RENAME": lambda s: (s.where("file"), s.where("new")),
}


def test_every_rule_is_tested() -> None:
    assert CALLS.keys() == RULES.keys()


@pytest.mark.parametrize("name", CALLS)
async def test_what_was_done_already_is_a_success(server: Forgetful, name: str) -> None:
    (server.export / "file").write_text("text")
    (server.export / "empty").mkdir()
    args = CALLS[name](server)
    first = server.client.ok(name, *args)
    before = sorted(os.listdir(server.export))
    assert server.client.status(name, *args) is RULES[name].status
    again = await server.judged(name, *args)
    assert type(again) is type(first)
    assert sorted(os.listdir(server.export)) == before
    if hasattr(first, "obj"):
        assert again.obj == first.obj == server.handle("new")
        assert again.obj_attributes == first.obj_attributes


def somebody_elses(server: Forgetful, name: str) -> None:
    """Something with the name "new" that the call has not made."""
    path = server.export / "new"
    match name:
        case "SYMLINK":
            path.symlink_to("somewhere else")
        case "MKNOD":
            path.mkdir()
        case _:
            path.write_text("another file")


@pytest.mark.parametrize("name", ["CREATE", "MKDIR", "SYMLINK", "MKNOD", "LINK"])
async def test_what_somebody_else_has_made_is_a_failure(server: Forgetful, name: str) -> None:
    (server.export / "file").write_text("text")
    somebody_elses(server, name)
    result = await server.judged(name, *CALLS[name](server))
    assert result.status is nfsstat3.NFS3ERR_EXIST


@pytest.mark.parametrize(
    "theirs",
    [
        nfstime3(MARK.seconds, MARK.nseconds + 1),
        nfstime3(MARK.seconds + 1, MARK.nseconds),
        SERVER_TIME,
        None,
    ],
)
async def test_a_file_with_another_mark_is_a_failure(server: Forgetful, theirs: Any) -> None:
    how = createhow3(createmode3.GUARDED, sattr3(mode=0o600, atime=theirs))
    server.client.ok("CREATE", server.where("new"), how)
    for mine in (MARKED, createhow3(createmode3.GUARDED, sattr3(mode=0o600, atime=SERVER_TIME))):
        result = await server.judged("CREATE", server.where("new"), mine)
        assert result.status is nfsstat3.NFS3ERR_EXIST


async def test_a_directory_with_the_mark_is_a_failure(server: Forgetful) -> None:
    server.client.ok("MKDIR", server.where("new"), sattr3(mode=0o700, atime=MARK))
    result = await server.judged("CREATE", *CALLS["CREATE"](server))
    assert result.status is nfsstat3.NFS3ERR_EXIST


async def test_another_device_is_a_failure(server: Forgetful) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes device files")
    os.mknod(server.export / "new", 0o20600, os.makedev(1, 3))
    for minor, status in ((3, nfsstat3.NFS3_OK), (5, nfsstat3.NFS3ERR_EXIST)):
        what = mknoddata3(ftype3.NF3CHR, sattr3(mode=0o600), specdata3(1, minor))
        assert (await server.judged("MKNOD", server.where("new"), what)).status is status


async def test_a_rename_of_nothing_is_a_failure(server: Forgetful) -> None:
    result = await server.judged("RENAME", server.where("missing"), server.where("new"))
    assert result.status is nfsstat3.NFS3ERR_NOENT


async def test_other_answers_pass(server: Forgetful) -> None:
    (server.export / "full" / "child").mkdir(parents=True)
    result = await server.judged("RMDIR", server.where("full"))
    assert result.status is nfsstat3.NFS3ERR_NOTEMPTY
    result = await server.judged("LOOKUP", server.where("missing"))
    assert result.status is nfsstat3.NFS3ERR_NOENT
    result = await server.judged("MKDIR", server.where("made"), sattr3(mode=0o700))
    assert result.status is nfsstat3.NFS3_OK
    assert server.asked == []


async def test_calls_of_other_programs_pass(server: Forgetful) -> None:
    assert await done_already(server.ask, MOUNT3["EXPORT"], None, []) == []


async def test_a_server_that_leaves_attributes_out(
    server: Forgetful, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may, in the answer to a LOOKUP (RFC 1813 section 3.3.3)."""
    server.client.ok("MKDIR", *CALLS["MKDIR"](server))
    ask = server.ask

    async def sparing(procedure: Procedure[Any, Any], args: Any) -> Any:
        result = await ask(procedure, args)
        if isinstance(result, LOOKUP3resok):
            return LOOKUP3resok(result.object, None, None)
        return result

    monkeypatch.setattr(server, "ask", sparing)
    again = await server.judged("MKDIR", *CALLS["MKDIR"](server))
    assert again.obj_attributes.type is ftype3.NF3DIR
    assert server.asked == ["LOOKUP", "GETATTR"]
