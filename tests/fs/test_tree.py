"""Files of a server by their paths, with a server in the same process."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest
from umktls_fs.tree import MOST_DEPTH, MOST_LINKS, Node, Tree

from tests.fs.peer import Proceed
from tests.fs.place import Place
from umktls.errors import CallerError, PeerError, UmktlsError
from umktls.nfs.status import errno_of
from umktls.nfs.types import (
    LOOKUP3resfail,
    READDIRPLUS3resfail,
    READDIRPLUS3resok,
    dirlistplus3,
    nfsstat3,
)
from umktls.rpc.client import ProcedureUnavailable
from umktls.rpc.message import OpaqueAuth


def unheard(error: UmktlsError) -> None:
    raise AssertionError(error)


async def names(tree: Tree, failed: Any = unheard) -> set[bytes]:
    return {entry.name async for entry in tree.entries(await tree.root(), failed)}


async def test_links_are_followed_inside_the_export(place: Place) -> None:
    (place.export / "d").mkdir()
    (place.export / "d" / "file").write_text("x")
    for name, target in {
        "rel": "d/file",
        "up": "d/../../../d/file",
        "abs": str(place.export / "d" / "file"),
        "dir": "d",
        "out": "/etc/passwd",
        "loop": "loop",
    }.items():
        (place.export / name).symlink_to(target)
    for path in (b"/rel", b"/up", b"/abs", b"/dir/file", b"//d/./file"):
        assert (await place.tree.find(path)).path == b"/d/file"
    assert (await place.tree.find(b"/rel", follow=False)).name == b"rel"
    assert (await place.tree.find(b"/dir", follow=False)).name == b"dir"
    assert (await place.tree.find(b"/dir/", follow=False)).name == b"d"
    for path, text in {
        b"/out": "out of the export",
        b"/loop": "more than 40 links",
        b"/no/such": f"{place.export}/no/such: No such file or directory",
        b"/d/file/x": "/d/file/x: Not a directory",
        b"/d/file/": "/d/file/: Not a directory",
    }.items():
        with pytest.raises(UmktlsError, match=text):
            await place.tree.find(path)
    assert await place.tree.there(b"/no/such") is None


async def test_as_many_links_are_followed_as_linux_does(place: Place) -> None:
    (place.export / "0").write_text("x")
    for number in range(1, MOST_LINKS + 2):
        (place.export / str(number)).symlink_to(str(number - 1))
    assert (await place.tree.find(b"/%d" % MOST_LINKS)).path == b"/0"
    with pytest.raises(CallerError, match="more than 40 links") as caught:
        await place.tree.find(b"/%d" % (MOST_LINKS + 1))
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("wanted", [0, (1 << 32) - 1])
async def test_a_server_does_not_say_how_large_a_reply_may_be(place: Place, wanted: int) -> None:
    """`dtpref` is a wish (RFC 1813 section 3.3.19): none so large that it fills the memory."""
    place.caller.fsinfo = dataclasses.replace(place.caller.fsinfo, dtpref=wanted)
    with place.caller.watch() as seen:
        await names(place.tree)
    (size,) = [call.args.maxcount for call in seen if call.name == "READDIRPLUS"]
    assert 4096 <= size <= 1 << 20


async def test_the_root_has_no_name(place: Place) -> None:
    directory, name = await place.tree.parent(b"/d")
    assert (directory.path, name) == (b"/", b"d")
    with pytest.raises(CallerError, match="is an export"):
        await place.tree.parent(b"/")


@pytest.mark.parametrize("name", [b"", b"a/b", b"nul\0", b"../x"])
async def test_names_that_are_none_are_refused(place: Place, name: bytes) -> None:
    """A server could have us write anywhere by them."""
    (place.export / "file").write_text("x")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        answer: READDIRPLUS3resok = await proceed(args)
        bad = dataclasses.replace(answer.reply.entries[-1], name=name)
        entries = [*answer.reply.entries[:-1], bad]
        return dataclasses.replace(answer, reply=dirlistplus3(entries, True))

    place.caller.between["READDIRPLUS"] = between
    with pytest.raises(PeerError, match="a name that is none"):
        await names(place.tree)


@pytest.mark.parametrize(("again", "text"), [(True, "goes round"), (False, "does not end")])
async def test_a_listing_without_an_end(place: Place, again: bool, text: str) -> None:
    (place.export / "file").write_text("x")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        answer: READDIRPLUS3resok = await proceed(dataclasses.replace(args, cookie=0))
        entries = answer.reply.entries if again or not args.cookie else []
        return dataclasses.replace(answer, reply=dirlistplus3(entries, False))

    place.caller.between["READDIRPLUS"] = between
    with pytest.raises(PeerError, match=text):
        await names(place.tree)


@pytest.mark.parametrize("says", ["NOTSUPP", "PROC_UNAVAIL"])
async def test_a_server_without_readdirplus(place: Place, says: str) -> None:
    """Names alone come, and all else is looked up."""
    for number in range(100):
        (place.export / str(number)).write_text("x")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if says == "PROC_UNAVAIL":
            raise ProcedureUnavailable("the server does not offer this procedure")
        return READDIRPLUS3resfail(nfsstat3.NFS3ERR_NOTSUPP, None)

    place.caller.between["READDIRPLUS"] = between
    assert await names(place.tree) == {str(number).encode() for number in range(100)}
    (place.export / "more").mkdir()
    assert b"more" in await names(place.tree)
    assert place.caller.counts()["READDIRPLUS"] == 1


@pytest.mark.parametrize(
    ("status", "first"), [(nfsstat3.NFS3ERR_ACCES, True), (nfsstat3.NFS3ERR_NOTSUPP, False)]
)
async def test_what_is_no_lack_of_readdirplus(place: Place, status: nfsstat3, first: bool) -> None:
    """Any other refusal; or one in the middle of a listing, whose cookies READDIR need not know."""
    (place.export / "file").write_text("x")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if first or args.cookie:
            return READDIRPLUS3resfail(status, None)
        answer: READDIRPLUS3resok = await proceed(args)
        return dataclasses.replace(answer, reply=dirlistplus3(answer.reply.entries, False))

    place.caller.between["READDIRPLUS"] = between
    with pytest.raises(UmktlsError) as caught:
        await names(place.tree)
    assert caught.value.errno == errno_of(status)
    assert place.caller.counts()["READDIR"] == 0


async def test_directories_that_lie_too_deep(place: Place) -> None:
    """A server's may be in itself."""
    root = await place.tree.root()
    place.tree.check_depth(Node(b"/d" * MOST_DEPTH, root.handle, root.attributes))
    deep = Node(b"/d" * (MOST_DEPTH + 1), root.handle, root.attributes)
    with pytest.raises(PeerError, match="is one in itself") as caught:
        place.tree.check_depth(deep)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(PeerError, match="is one in itself"):
        await anext(place.tree.entries(deep, unheard))


async def test_entries_that_cannot_be_looked_up(place: Place) -> None:
    """What was removed meanwhile is no entry; of what is refused there is an error."""
    for name in ("gone", "refused", "there"):
        (place.export / name).write_text("x")
    errors: list[UmktlsError] = []
    status = {b"gone": nfsstat3.NFS3ERR_NOENT, b"refused": nfsstat3.NFS3ERR_ACCES}

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        found = status.get(args.what.name)
        return await proceed(args) if found is None else LOOKUP3resfail(found, None)

    place.caller.between["LOOKUP"] = between
    tree = place.seen_by(plus=False)
    assert await names(tree, errors.append) == {b"there"}
    (error,) = errors
    assert str(error) == f"{place.export}/refused: Permission denied"
    assert error.errno == errno.EACCES
