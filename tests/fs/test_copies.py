"""Copies of files between a server in the same process and a directory, interrupted and not."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from umktls_fs.download import digest, digest_of_local, get
from umktls_fs.upload import CHUNK, put
from umktls_fs.urlcopies import destination, local_place

from tests.fs.copying import BIG, Copies
from tests.fs.peer import Proceed
from tests.fs.place import Cut, Place
from umktls.errors import CallerError, PeerError, UmktlsError, WorldError
from umktls.nfs.types import stable_how
from umktls.rpc.message import OpaqueAuth

BLOCK = 1 << 20


pytestmark = pytest.mark.usefixtures("plain_umask")


# ---- from the server


async def test_an_interrupted_download_is_gone_on_with(place: Place) -> None:
    (place.export / "big").write_bytes(BIG)
    node, target = await place.tree.find(b"/big"), str(place.local / "big")
    place.cut_after("READ", 12)
    with pytest.raises(Cut):
        await get(place.tree, node, target, place.advance)
    (part,) = place.local.iterdir()
    assert part.name.startswith(".umktls-")
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    there = part.stat().st_size
    assert there == place.moved >= 4 * BLOCK
    del place.caller.between["READ"]
    with place.caller.watch() as seen:
        assert await get(place.tree, node, target, place.advance)
    assert min(call.args.offset for call in seen if call.name == "READ") == there
    assert (place.local / "big").read_bytes() == BIG
    assert [path.name for path in place.local.iterdir()] == ["big"]


async def test_a_copy_has_the_source_s_mode_and_time(place: Place) -> None:
    source = place.export / "file"
    source.write_text("x")
    source.chmod(0o6775)
    os.utime(source, ns=(1_000_000_001, 2_000_000_003))
    target = place.local / "file"
    await get(place.tree, await place.tree.find(b"/file"), str(target), place.advance)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert target.stat().st_mtime_ns == 2_000_000_003
    back = await put(place.tree, str(target), await place.tree.root(), b"back", place.advance)
    assert back[1]
    assert stat.S_IMODE((place.export / "back").stat().st_mode) == 0o755
    assert (place.export / "back").stat().st_mtime_ns == 2_000_000_003


async def test_what_is_there_is_left_alone_unless_told_otherwise(place: Place) -> None:
    """The same size and time of change, both ways; only its bytes would tell."""
    (place.export / "file").write_text("right")
    node, target = await place.tree.find(b"/file"), place.local / "file"
    await get(place.tree, node, str(target), place.advance)
    when = target.stat().st_mtime_ns
    target.write_text("wrong")
    os.utime(target, ns=(when, when))
    assert not await get(place.tree, node, str(target), place.advance)
    assert target.read_text() == "wrong"
    checked = Copies(place, check=True)
    await checked.copier.fetch(node, str(target))
    assert "--no-resume copies it anew" in checked.failed[0]
    root = await place.tree.root()
    assert not (await put(place.tree, str(target), root, b"file", place.advance))[1]
    assert await get(place.tree, node, str(target), place.advance, resume=False)
    assert target.read_text() == "right"


async def test_a_source_that_has_changed_is_copied_anew(place: Place) -> None:
    (place.export / "big").write_bytes(BIG)
    target = str(place.local / "big")
    place.cut_after("READ", 12)
    with pytest.raises(Cut):
        await get(place.tree, await place.tree.find(b"/big"), target, place.advance)
    place.caller.between.clear()
    (place.export / "big").write_bytes(BIG[::-1])
    os.utime(place.export / "big", (1, 1))
    await get(place.tree, await place.tree.find(b"/big"), target, place.advance)
    assert (place.local / "big").read_bytes() == BIG[::-1]


async def test_a_source_that_changes_meanwhile(place: Place) -> None:
    """Then what came is no one state of it, and nothing takes the target's place."""
    source, target = place.export / "file", place.local / "file"
    source.write_bytes(b"x" * 100)
    target.write_text("before")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        answer = await proceed(args)
        source.write_bytes(b"y" * 100)
        os.utime(source, (1, 1))
        return answer

    place.caller.between["READ"] = between
    with pytest.raises(WorldError, match="changed while it was copied"):
        await get(place.tree, await place.tree.find(b"/file"), str(target), place.advance)
    assert target.read_text() == "before"
    assert os.listdir(place.local) == ["file"]


async def test_a_file_that_becomes_shorter_meanwhile(place: Place) -> None:
    (place.export / "file").write_bytes(b"x" * 100)
    node = await place.tree.find(b"/file")
    (place.export / "file").write_bytes(b"x" * 50)
    with pytest.raises(PeerError, match="ends at 50: it became shorter"):
        await get(place.tree, node, str(place.local / "file"), place.advance)


async def test_a_server_that_gives_few_bytes_at_a_time(place: Place) -> None:
    (place.export / "file").write_bytes(BIG[:5000])

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return await proceed(dataclasses.replace(args, count=min(args.count, 700)))

    place.caller.between["READ"] = between
    node = await place.tree.find(b"/file")
    await get(place.tree, node, str(place.local / "file"), place.advance)
    assert (place.local / "file").read_bytes() == BIG[:5000]


async def part_of(place: Place, target: str) -> Path:
    """What an interrupted copy of /big leaves."""
    (place.export / "big").write_bytes(BIG)
    place.cut_after("READ", 4)
    with pytest.raises(Cut):
        await get(place.tree, await place.tree.find(b"/big"), target, place.advance)
    place.caller.between.clear()
    (part,) = place.local.iterdir()
    return part


def into_link(part: Path) -> None:
    part.unlink()
    part.symlink_to(part.parent.parent / "victim")


def into_second(part: Path) -> None:
    part.unlink()
    (part.parent.parent / "victim").write_bytes(b"mine")
    os.link(part.parent.parent / "victim", part)


def into_fifo(part: Path) -> None:
    part.unlink()
    os.mkfifo(part)


def into_somebody_elses(part: Path) -> None:
    part.write_bytes(b"evil" * 100)
    os.chown(part, 12345, 12345)


@pytest.mark.parametrize("turn", [into_link, into_second, into_fifo, into_somebody_elses])
async def test_only_what_this_user_has_left_is_gone_on_with(
    place: Place, turn: Callable[[Path], None]
) -> None:
    """In /tmp somebody else could have put it there."""
    if turn is into_somebody_elses and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    target = place.local / "big"
    turn(await part_of(place, str(target)))
    await get(place.tree, await place.tree.find(b"/big"), str(target), place.advance)
    assert target.read_bytes() == BIG
    assert target.stat().st_uid == os.geteuid()
    victim = place.local.parent / "victim"
    assert not victim.exists() or victim.read_bytes() == b"mine"


async def test_two_copies_of_the_same_at_once(place: Place) -> None:
    target = str(place.local / "big")
    part = await part_of(place, target)
    with part.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WorldError, match="another copy of the same is under way"):
            await get(place.tree, await place.tree.find(b"/big"), target, place.advance)


async def test_what_is_no_file_is_not_replaced(place: Place) -> None:
    """`umktls cp URL /dev/null` by root must not make a file of it."""
    (place.export / "file").write_text("x")
    node, target = await place.tree.find(b"/file"), place.local / "target"
    os.mkfifo(target)
    with pytest.raises(CallerError, match="is no file"):
        await get(place.tree, node, str(target), place.advance)
    assert target.is_fifo()
    target.unlink()
    target.mkdir()
    with pytest.raises(CallerError, match="Is a directory"):
        await get(place.tree, node, str(target), place.advance)


# ---- to the server


async def interrupted(place: Place, source: Path) -> Path:
    """What an interrupted upload has left."""
    place.cut_after("WRITE", 38)  # of 41: more than a chunk
    with pytest.raises(Cut):
        await put(place.tree, str(source), await place.tree.root(), b"there", place.advance)
    place.caller.between.clear()
    assert not (place.export / "there").exists()
    (part,) = place.export.iterdir()
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    return part


async def test_an_interrupted_upload_is_gone_on_with(place: Place) -> None:
    source, root = place.local / "big", await place.tree.root()
    source.write_bytes(BIG)
    await interrupted(place, source)
    with place.caller.watch() as seen:
        node, copied = await put(place.tree, str(source), root, b"there", place.advance)
    assert copied
    assert min(call.args.offset for call in seen if call.name == "WRITE") == CHUNK
    assert [path.name for path in place.export.iterdir()] == ["there"]
    assert await digest(place.tree, node) == digest_of_local(str(source))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("squashed", "resumed"), [(True, True), (False, False)])
async def test_only_what_this_caller_has_left_is_gone_on_with(
    place: Place, squashed: bool, resumed: bool
) -> None:
    """Of a server that knows the caller by another number it is seen by what is made now."""
    source, root = place.local / "big", await place.tree.root()
    source.write_bytes(BIG)
    part = await interrupted(place, source)
    os.chown(part, 12345, 12345)
    place.export.chmod(0o777)

    async def as_other(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        answer = await proceed(args)
        name = args.where.name
        if squashed and answer.status == 0:
            os.chown(os.fsencode(place.export) + b"/" + name, 12345, 12345)
            attributes = dataclasses.replace(answer.obj_attributes, uid=12345)
            answer = dataclasses.replace(answer, obj_attributes=attributes)
        return answer

    place.caller.between["CREATE"] = as_other
    with place.caller.watch() as seen:
        await put(place.tree, str(source), root, b"there", place.advance)
    first = min(call.args.offset for call in seen if call.name == "WRITE")
    assert first == (CHUNK if resumed else 0)
    assert (place.export / "there").read_bytes() == BIG
    assert [path.name for path in place.export.iterdir()] == ["there"]


async def test_a_server_that_was_restarted_gets_the_chunk_again(place: Place) -> None:
    """Another verifier than the WRITEs had: what was not committed may be lost (RFC 1813)."""
    (place.local / "file").write_bytes(b"x" * 100)
    lies = [True]

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        answer = await proceed(args)
        return dataclasses.replace(answer, verf=b"restartd") if lies and lies.pop() else answer

    place.caller.between["COMMIT"] = between
    root = await place.tree.root()
    with place.caller.watch() as seen:
        await put(place.tree, str(place.local / "file"), root, b"file", place.advance)
    assert [call.name for call in seen].count("WRITE") == 2
    assert place.moved == 100
    lies += [True] * 3
    with pytest.raises(PeerError, match="forgot what was written, 3 times"):
        await put(place.tree, str(place.local / "file"), root, b"other", place.advance)


async def test_a_server_that_takes_few_bytes_at_a_time(place: Place) -> None:
    (place.local / "file").write_bytes(BIG[:5000])

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        few = min(args.count, 700)
        cut = dataclasses.replace(args, count=few, data=bytes(args.data)[:few])
        return await proceed(cut)

    place.caller.between["WRITE"] = between
    root = await place.tree.root()
    with place.caller.watch() as seen:
        await put(place.tree, str(place.local / "file"), root, b"file", place.advance)
    assert (place.export / "file").read_bytes() == BIG[:5000]
    assert all(call.args.stable is stable_how.UNSTABLE for call in seen if call.name == "WRITE")


async def test_nothing_takes_the_place_of_a_directory_there(place: Place) -> None:
    (place.local / "file").write_text("x")
    (place.export / "d").mkdir()
    root = await place.tree.root()
    with pytest.raises(CallerError, match="is there, and a directory"):
        await put(place.tree, str(place.local / "file"), root, b"d", place.advance)


# ---- where to


@pytest.mark.parametrize(
    ("path", "source", "into", "where"),
    [
        (b"/d", "x/file", False, (b"/d", b"file")),
        (b"/d/", "x/file/", True, (b"/d", b"file")),
        (b"/d/new", "x/file", False, (b"/d", b"new")),
        (b"/d/new/", "x", False, (b"/d", b"new")),  # a directory, by that name
        (b"/lead", "x/file", False, (b"/d", b"there")),  # to where a link leads that is named
        (b"/", "file", False, (b"/", b"file")),
        (b"/d", ".", False, (b"/d", b".")),
        (b"/d", "x/..", False, (b"/d", b".")),
        (b"/d/new", "x/file", True, "/d/new: Not a directory"),
        (b"/d/there", "x/file", True, "/d/there: Not a directory"),
        (b"/no/new", "x/file", False, "/no/: No such file or directory"),
    ],
)
async def test_where_a_copy_to_the_server_goes(
    place: Place, path: bytes, source: str, into: bool, where: tuple[bytes, bytes] | str
) -> None:
    """As cp(1) has it."""
    (place.export / "d").mkdir()
    (place.export / "d" / "there").write_text("x")
    (place.export / "lead").symlink_to("d/there")
    if isinstance(where, str):
        with pytest.raises(UmktlsError, match=where):
            await destination(place.tree, path, source, into)
        return
    directory, name = await destination(place.tree, path, source, into)
    assert (directory.path, name) == where


def test_where_a_copy_from_the_server_goes(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "dirlink").symlink_to(".")
    for target, name, where in [
        ("", "file", "file"),
        ("new", "file", "new"),
        ("new/", "dir", "new"),
        ("link", "file", "there"),
        ("dirlink", "file", "dirlink/file"),
        ("", "", ""),
    ]:
        expected = str(tmp_path / where) if where else str(tmp_path)
        assert local_place(f"{tmp_path}/{target}", name).rstrip("/") == expected
    assert local_place("/dev/stdout", "file") != "/dev/stdout"


async def test_the_contents_of_a_directory(place: Place) -> None:
    """`cp -r . URL` copies what is in it."""
    (place.local / "file").write_text("x")
    copies = Copies(place)
    await copies.copier.send(str(place.local), await place.tree.root(), b".")
    assert os.listdir(place.export) == ["file"]
