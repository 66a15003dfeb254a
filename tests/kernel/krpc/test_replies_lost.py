"""Calls whose reply is lost on the way, one by one: what their callers are told, and what is there.

The call has been executed, and the connection ends in front of its reply; so it is sent again on
the next one. The server either knows the call again ("lives"), or has been started anew meanwhile.
Each line of the list at the head of `umktls.kernel.krpc.repeated` is tried here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from tests.conftest import patience
from tests.nfsd.client import ROOT
from umktls.kernel.krpc.client import NfsClient
from umktls.kernel.krpc.nconnect import Connections
from umktls.kernel.krpc.repeated import RULES
from umktls.nfs import types
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import (
    FSINFO3args,
    LOOKUP3args,
    createhow3,
    createmode3,
    diropargs3,
    ftype3,
    mknoddata3,
    nfsstat3,
    nfstime3,
    sattr3,
    stable_how,
    symlinkdata3,
)
from umktls.nfsd import Export, NfsServer
from umktls.testing.joined import Joined, joined
from umktls.testing.wire import Action, cut

SERVERS = ["lives", "restarted"]
CREDENTIAL = ROOT.to_opaque()
VERIFIER = b"\x80verify\1"


@dataclass
class Mount:
    """A mounted export, and the wire to its server."""

    both: Joined
    client: NfsClient
    export: Path

    async def call(self, name: str, *args: Any) -> Any:
        its_args = getattr(types, f"{name}3args")(*args)
        return await self.client.call(NFS3[name], its_args, CREDENTIAL)

    async def call_unheard(
        self, name: str, *args: Any, meanwhile: Callable[[Path], object] = lambda top: None
    ) -> Any:
        """The result of a call whose first reply is lost. `meanwhile`: what somebody does to the
        export before it is sent again."""
        connections = self.both.client.totals["connections"]
        self.both.wire.fault("to_client", losing(lambda: meanwhile(self.export)))
        with trio.fail_after(patience(600)):
            result = await self.call(name, *args)
        assert self.both.client.totals["connections"] == connections + 1
        return result

    def where(self, name: str) -> diropargs3:
        return diropargs3(self.client.root, name.encode())

    async def handle(self, name: str) -> bytes:
        found = await self.client.call(NFS3["LOOKUP"], LOOKUP3args(self.where(name)), CREDENTIAL)
        handle = found.object
        assert isinstance(handle, bytes)
        return handle


def losing(meanwhile: Callable[[], object]) -> Action:
    ending = cut()

    async def action(unit: bytes, stream: trio.SocketStream) -> bytes:
        meanwhile()
        return await ending(unit, stream)

    return action


@asynccontextmanager
async def mounted(base: Path, state: str) -> AsyncIterator[Mount]:
    export = base / "export"
    export.mkdir()
    (export / "file").write_text("text")
    (export / "empty").mkdir()
    server = NfsServer([Export(str(export), squash="none", secure=False)], base / "state")
    # What a server that was started anew has forgotten is which calls it has executed.
    services = [
        replace(service, cache=service.cache and state == "lives") for service in server.services()
    ]
    try:
        async with joined(base, services, deadline=600) as both:
            root = bytes((await both.rpc.call(MOUNT3["MNT"], b"/", CREDENTIAL)).fhandle)
            info = await both.rpc.call(NFS3["FSINFO"], FSINFO3args(root), CREDENTIAL)
            assert isinstance(info, types.FSINFO3resok)
            one_connection = cast(Connections, both.rpc)
            yield Mount(both, NfsClient(one_connection, root, info), export)
    finally:
        server.close()


@pytest.fixture(params=SERVERS)
def state(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def mount(umktls_rundir: Path, state: str) -> AsyncIterator[Mount]:
    async with mounted(umktls_rundir, state) as one:
        yield one


FIFO = mknoddata3(ftype3.NF3FIFO, sattr3(mode=0o600))
UNCHECKED = createhow3(createmode3.UNCHECKED, sattr3(mode=0o600))
EMPTYING = createhow3(createmode3.UNCHECKED, sattr3(size=0))
GUARDED = createhow3(createmode3.GUARDED, sattr3(mode=0o600))
MARKED = createhow3(createmode3.GUARDED, sattr3(mode=0o600, atime=nfstime3(1_700_000_000, 123)))
EXCLUSIVE = createhow3(createmode3.EXCLUSIVE, verf=VERIFIER)

Arguments = Callable[[Mount], tuple[Any, ...]]

# What is called, its arguments, and whether it has been done.
CASES: dict[str, tuple[str, Arguments, Callable[[Path], bool]]] = {
    "mkdir": (
        "MKDIR",
        lambda m: (m.where("new"), sattr3(mode=0o700)),
        lambda top: (top / "new").is_dir(),
    ),
    "symlink": (
        "SYMLINK",
        lambda m: (m.where("new"), symlinkdata3(sattr3(), b"target")),
        lambda top: os.readlink(top / "new") == "target",
    ),
    "mknod": ("MKNOD", lambda m: (m.where("new"), FIFO), lambda top: (top / "new").is_fifo()),
    "remove": (
        "REMOVE",
        lambda m: (m.where("file"),),
        lambda top: not (top / "file").exists(),
    ),
    "rmdir": ("RMDIR", lambda m: (m.where("empty"),), lambda top: not (top / "empty").exists()),
    "rename": (
        "RENAME",
        lambda m: (m.where("file"), m.where("new")),
        lambda top: (top / "new").read_text() == "text" and not (top / "file").exists(),
    ),
    "rename of a directory": (
        "RENAME",
        lambda m: (m.where("empty"), m.where("new")),
        lambda top: (top / "new").is_dir() and not (top / "empty").exists(),
    ),
    "create": ("CREATE", lambda m: (m.where("new"), UNCHECKED), lambda top: (top / "new").exists()),
    "create and empty": (
        "CREATE",
        lambda m: (m.where("file"), EMPTYING),
        lambda top: (top / "file").read_text() == "",
    ),
    "create exclusively": (
        "CREATE",
        lambda m: (m.where("new"), EXCLUSIVE),
        lambda top: (top / "new").exists(),
    ),
    "create with a mark": (
        "CREATE",
        lambda m: (m.where("new"), MARKED),
        lambda top: (top / "new").exists(),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_was_done_is_a_success(mount: Mount, case: str) -> None:
    name, arguments, done = CASES[case]
    seen: list[bool] = []
    result = await mount.call_unheard(
        name, *arguments(mount), meanwhile=lambda top: seen.append(done(top))
    )
    assert seen == [True]
    assert result.status is nfsstat3.NFS3_OK
    assert done(mount.export)
    if hasattr(result, "obj"):
        there = (await mount.call("GETATTR", result.obj)).obj_attributes
        assert there.fileid == result.obj_attributes.fileid


async def test_a_link_that_was_made_is_a_success(mount: Mount) -> None:
    result = await mount.call_unheard("LINK", await mount.handle("file"), mount.where("new"))
    assert result.status is nfsstat3.NFS3_OK
    assert result.file_attributes.nlink == (mount.export / "file").stat().st_nlink == 2


async def test_writing_and_setting_are_done_once_more(mount: Mount) -> None:
    handle = await mount.handle("file")
    written = await mount.call_unheard("WRITE", handle, 4, 3, stable_how.UNSTABLE, b"ure")
    assert (written.status, written.count) == (nfsstat3.NFS3_OK, 3)
    cut_off = await mount.call_unheard("SETATTR", handle, sattr3(size=6))
    assert cut_off.status is nfsstat3.NFS3_OK
    assert (mount.export / "file").read_text() == "textur"


async def test_a_guarded_creation(mount: Mount, state: str) -> None:
    """Nothing tells whose the file is. Our own file system gives it a mark, or looks again."""
    result = await mount.call_unheard("CREATE", mount.where("new"), GUARDED)
    expected = {"lives": nfsstat3.NFS3_OK, "restarted": nfsstat3.NFS3ERR_EXIST}
    assert result.status is expected[state]
    assert (mount.export / "new").exists()


async def test_a_call_that_failed_has_failed(mount: Mount) -> None:
    """Also when it is sent again: what is there is not what was asked for."""
    for name, args in (
        ("MKDIR", (mount.where("file"), sattr3())),
        ("SYMLINK", (mount.where("file"), symlinkdata3(sattr3(), b"target"))),
        ("LINK", (await mount.handle("file"), mount.where("empty"))),
        ("CREATE", (mount.where("file"), EXCLUSIVE)),
        ("CREATE", (mount.where("file"), GUARDED)),
    ):
        result = await mount.call_unheard(name, *args)
        assert result.status is nfsstat3.NFS3ERR_EXIST, name
    result = await mount.call_unheard("RENAME", mount.where("missing"), mount.where("new"))
    assert result.status is nfsstat3.NFS3ERR_NOENT
    assert sorted(os.listdir(mount.export)) == ["empty", "file"]


@pytest.mark.parametrize("bit", [0, 7, 31, 32, 63])
async def test_an_exclusive_creation_of_another_client(mount: Mount, bit: int) -> None:
    """Its verifier differs in one bit; neither's repetition takes the other's file for its own."""
    other = (int.from_bytes(VERIFIER, "big") ^ 1 << bit).to_bytes(8, "big")
    theirs = createhow3(createmode3.EXCLUSIVE, verf=other)
    first = await mount.call_unheard("CREATE", mount.where("new"), EXCLUSIVE)
    assert first.status is nfsstat3.NFS3_OK
    second = await mount.call_unheard("CREATE", mount.where("new"), theirs)
    assert second.status is nfsstat3.NFS3ERR_EXIST


# What somebody else does between the two.


def anew(name: str) -> Callable[[Path], object]:
    return lambda top: (top / name).write_text("somebody else's")


Kept = dict[str, str | None]
KEPT: Kept = {"lives": "somebody else's", "restarted": None}
MEANWHILE: dict[str, tuple[str, Arguments, Callable[[Path], object], Kept]] = {
    # What was removed, or moved away, and made anew by others is removed, or moved, too.
    "remove": ("REMOVE", lambda m: (m.where("file"),), anew("file"), KEPT),
    "rename": ("RENAME", lambda m: (m.where("file"), m.where("new")), anew("file"), KEPT),
    # What others have written meanwhile is cut off, and what they have set is set again.
    "create and empty": (
        "CREATE",
        lambda m: (m.where("file"), EMPTYING),
        anew("file"),
        {"lives": "somebody else's", "restarted": ""},
    ),
}


@pytest.mark.parametrize("case", MEANWHILE)
async def test_what_others_make_meanwhile(mount: Mount, state: str, case: str) -> None:
    """A server that lives does not touch it; one that has forgotten cannot know better."""
    name, arguments, meanwhile, left = MEANWHILE[case]
    result = await mount.call_unheard(name, *arguments(mount), meanwhile=meanwhile)
    assert result.status is nfsstat3.NFS3_OK
    path = mount.export / "file"
    assert (path.read_text() if path.exists() else None) == left[state]


async def test_what_others_do_the_same_meanwhile(mount: Mount, state: str) -> None:
    """They have removed what was made, and made the same: it is taken for this call's own."""

    def same(top: Path) -> None:
        (top / "new").rmdir()
        (top / "new").mkdir()

    result = await mount.call_unheard("MKDIR", mount.where("new"), sattr3(), meanwhile=same)
    assert result.status is nfsstat3.NFS3_OK
    # The handle of a living server's reply is that of the first.
    status = (await mount.call("GETATTR", result.obj)).status
    assert status is {"lives": nfsstat3.NFS3ERR_STALE, "restarted": nfsstat3.NFS3_OK}[state]


async def test_what_others_put_in_its_place_meanwhile(mount: Mount, state: str) -> None:
    """Another thing of that name is nobody's success."""

    def file(top: Path) -> None:
        (top / "new").rmdir()
        (top / "new").touch()

    result = await mount.call_unheard("MKDIR", mount.where("new"), sattr3(), meanwhile=file)
    expected = {"lives": nfsstat3.NFS3_OK, "restarted": nfsstat3.NFS3ERR_EXIST}
    assert result.status is expected[state]


async def test_a_write_hides_what_others_have_written_meanwhile(mount: Mount, state: str) -> None:
    handle = await mount.handle("file")
    args = handle, 0, 4, stable_how.UNSTABLE, b"ours"
    written = await mount.call_unheard(
        "WRITE", *args, meanwhile=lambda top: (top / "file").write_text("them")
    )
    assert written.status is nfsstat3.NFS3_OK
    assert (mount.export / "file").read_text() == {"lives": "them", "restarted": "ours"}[state]


def test_every_rule_is_tried() -> None:
    tried = {name for name, _, _ in CASES.values()} | {"LINK"}
    assert tried >= RULES.keys()
