"""Whole directories: copied there and back, and removed; what cannot be is told."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from umktls_fs.download import digest_of_local
from umktls_fs.removing import remove

from tests.fs.copying import ODD, Copies
from tests.fs.peer import Proceed
from tests.fs.place import Place
from tests.fs.silence import unanswered
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.nfs.types import REMOVE3resfail, nfsstat3, wcc_data
from umktls.rpc.message import OpaqueAuth

# ---- directories

pytestmark = pytest.mark.usefixtures("plain_umask")


async def test_a_directory_there_and_back(place: Place) -> None:
    """Names that are no UTF-8, links (a broken one too), many small files, an empty directory."""
    source = os.fsencode(place.local / "tree")
    make_tree(source)
    up = Copies(place, check=True)
    with place.caller.watch():
        await up.copier.send(os.fsdecode(source), await place.tree.root(), b"tree")
    down = Copies(place, check=True)
    await down.copier.fetch(await place.tree.find(b"/tree"), str(place.local / "back"))
    for done in (up.done, down.done):
        assert (done.files, done.directories, done.links) == (201, 4, 2)
        assert len(done.digests) == 201
    assert up.failed == [f"{os.fsdecode(source)}/fifo is left out: it is a special file"]
    assert down.failed == []
    assert down.expected == down.done.bytes
    back = os.fsencode(place.local / "back")
    assert os.readlink(os.path.join(back, b"many", b"link")) == b"../" + ODD
    assert os.readlink(os.path.join(back, b"broken")) == b"nowhere"
    assert digest_of_local(os.fsdecode(os.path.join(back, ODD, ODD))) == sha256(b"odd").hexdigest()
    assert stat.S_IMODE(os.stat(os.path.join(back, b"empty")).st_mode) == 0o555
    again = Copies(place)
    await again.copier.fetch(await place.tree.find(b"/tree"), str(place.local / "back"))
    assert (again.done.files, again.done.skipped, again.failed) == (0, 201, [])


def make_tree(top: bytes) -> None:
    for name in (b"", b"empty", b"many", ODD):
        os.mkdir(os.path.join(top, name))
    for number in range(200):
        Path(os.fsdecode(top), "many", str(number)).write_text(str(number))
    Path(os.fsdecode(top), os.fsdecode(ODD), os.fsdecode(ODD)).write_bytes(b"odd")
    os.symlink(b"../" + ODD, os.path.join(top, b"many", b"link"))
    os.symlink(b"nowhere", os.path.join(top, b"broken"))
    os.mkfifo(os.path.join(top, b"fifo"))
    os.chmod(os.path.join(top, b"empty"), 0o555)


async def test_that_one_file_fails_leaves_the_others(place: Place) -> None:
    (place.export / "d").mkdir()
    for name in ("a", "b", "c"):
        (place.export / "d" / name).write_text("x")
    (place.local / "copy" / "b").mkdir(parents=True)
    copies = Copies(place)
    await copies.copier.fetch(await place.tree.find(b"/d"), str(place.local / "copy"))
    assert copies.failed == [f"{place.local}/copy/b: Is a directory"]
    assert sorted(os.listdir(place.local / "copy")) == ["a", "b", "c"]


async def test_a_server_that_is_silent_ends_the_whole(place: Place) -> None:
    """What comes next would wait as long."""
    (place.export / "d").mkdir()
    for number in range(30):
        (place.export / "d" / str(number)).write_text("x")
    unanswered(place.caller, "READ")
    copies = Copies(place)
    with place.caller.watch() as seen, pytest.raises(WorldError, match="no answer"):
        await copies.copier.fetch(await place.tree.find(b"/d"), str(place.local / "copy"))
    assert [call.name for call in seen].count("READ") < 30


async def test_directories_want_a_word(place: Place) -> None:
    (place.export / "d").mkdir()
    copies = Copies(place, recursive=False)
    await copies.copier.fetch(await place.tree.find(b"/d"), str(place.local / "d"))
    await copies.copier.send(str(place.local), await place.tree.root(), b"new")
    assert [text.partition(": ")[2] for text in copies.failed] == ["-r copies what is in it"] * 2
    assert not (place.local / "d").exists()


async def test_nothing_is_written_through_a_link_that_was_there(place: Place) -> None:
    """Inside a directory that is copied: neither where a directory is to be, nor a file."""
    outside = place.local / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (place.export / "d" / "in").mkdir(parents=True)
    for path in (place.export / "d" / "file", place.export / "d" / "in" / "file"):
        path.write_text("theirs")
    target = place.local / "d"
    target.mkdir()
    (target / "in").symlink_to(outside)
    (target / "file").symlink_to(outside / "file")
    copies = Copies(place)
    await copies.copier.fetch(await place.tree.find(b"/d"), str(target))
    assert copies.failed == [f"{target}/in: File exists"]
    assert (outside / "file").read_text() == "mine"
    assert (target / "file").read_text() == "theirs"
    assert not (target / "file").is_symlink()


async def test_digests_that_differ_are_told(place: Place) -> None:
    """What the server has now is read from it anew."""
    (place.local / "file").write_text("right")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        answer = await proceed(args)
        (place.export / "file").write_text("wrong")
        return answer

    place.caller.between["RENAME"] = between
    copies = Copies(place, check=True)
    await copies.copier.send(str(place.local / "file"), await place.tree.root(), b"file")
    ours = digest_of_local(str(place.local / "file"))
    theirs = digest_of_local(str(place.export / "file"))
    assert copies.failed == [
        f"{place.local}/file has SHA-256 {ours}, the server's {place.export}/file {theirs}"
    ]
    assert copies.done.digests == {}


# ---- removing


async def test_removing(place: Place) -> None:
    (place.local / "kept").write_text("x")
    top = place.export / "d"
    (top / "deep" / "er").mkdir(parents=True)
    for number in range(100):
        (top / "deep" / str(number)).write_text("x")
    (top / "link").symlink_to(place.local)
    failed: list[UmktlsError] = []
    with pytest.raises(CallerError, match="-r removes it with all that is in it"):
        await remove(place.tree, b"/d", failed.append, recursive=False, force=False)
    with pytest.raises(WorldError, match="/no: No such file"):
        await remove(place.tree, b"/no", failed.append, recursive=False, force=False)
    await remove(place.tree, b"/no", failed.append, recursive=False, force=True)
    with pytest.raises(CallerError, match="Not a directory"):
        await remove(place.tree, b"/d/link/", failed.append, recursive=True, force=False)
    with pytest.raises(CallerError, match="is an export"):
        await remove(place.tree, b"/", failed.append, recursive=True, force=True)
    await remove(place.tree, b"/d", failed.append, recursive=True, force=False)
    assert failed == []
    assert os.listdir(place.export) == []
    assert (place.local / "kept").exists()


async def test_what_cannot_be_removed_is_told_and_the_rest_goes(place: Place) -> None:
    for name in ("a", "b", "c"):
        (place.export / "d" / name).mkdir(parents=True)
        (place.export / "d" / name / "file").write_text("x")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        if args.object.dir == held:
            return REMOVE3resfail(nfsstat3.NFS3ERR_ACCES, wcc_data(None, None))
        return await proceed(args)

    held = (await place.tree.find(b"/d/b")).handle
    place.caller.between["REMOVE"] = between
    failed: list[UmktlsError] = []
    await remove(place.tree, b"/d", failed.append, recursive=True, force=False)
    assert [str(error) for error in failed] == [f"{place.export}/d/b/file: Permission denied"]
    assert os.listdir(place.export / "d") == ["b"]


async def test_directories_without_an_end(place: Place) -> None:
    """Those that are in themselves look like this, but have no innermost."""
    deep = place.local / "deep"
    deep.mkdir()
    (place.export / "deep").mkdir()
    for top in (deep, place.export / "deep"):
        os.makedirs(os.path.join(top, *["d"] * 400))
    root = await place.tree.root()
    there, back = Copies(place), Copies(place)
    await there.copier.send(str(deep), root, b"sent")
    await back.copier.fetch(await place.tree.find(b"/deep"), str(place.local / "fetched"))
    for copies in (there, back):
        (failed,) = copies.failed
        assert "more than 150 directories in each other" in failed
        assert copies.done.directories >= 149
    failures: list[str] = []
    await remove(
        place.tree,
        b"/deep",
        lambda error: failures.append(str(error)),
        recursive=True,
        force=False,
    )
    assert "more than 150 directories in each other" in failures[0]
