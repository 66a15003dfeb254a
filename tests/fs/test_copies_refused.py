"""What ends a copy or a part of it: each refusal is told as what it is, and nothing is left."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from umktls_fs import download, upload
from umktls_fs.removing import remove

from tests.descriptors import descriptors
from tests.fs.copying import Copies
from tests.fs.peer import Proceed
from tests.fs.place import Place
from tests.fs.silence import unanswered
from umktls.errors import CallerError, PeerError, WorldError
from umktls.nfs.types import MKDIR3resfail, nfsstat3, wcc_data
from umktls.rpc.message import OpaqueAuth

NOTHING = wcc_data(None, None)


def tree_of(place: Place) -> str:
    source = place.local / "d"
    source.mkdir()
    (source / "file").write_text("x")
    return str(source)


async def test_a_directory_in_whose_place_a_file_is(place: Place) -> None:
    source = tree_of(place)
    (place.export / "d").write_text("there before")
    copies = Copies(place)
    await copies.copier.send(source, await place.tree.root(), b"d")
    (said,) = copies.failed
    assert said.startswith(f"{place.export}/d is there, and a ")
    assert (place.export / "d").read_text() == "there before"


async def test_a_directory_that_cannot_be_made(place: Place) -> None:
    """It is not looked for then: what is said is what the server has said."""

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return MKDIR3resfail(nfsstat3.NFS3ERR_ACCES, NOTHING)

    place.caller.between["MKDIR"] = between
    copies = Copies(place)
    await copies.copier.send(tree_of(place), await place.tree.root(), b"d")
    assert copies.failed == [f"{place.export}/d: Permission denied"]


async def test_a_link_takes_the_place_of_a_link(place: Place) -> None:
    (place.local / "d").mkdir()
    (place.local / "d" / "link").symlink_to("new")
    (place.export / "d").mkdir()
    (place.export / "d" / "link").symlink_to("old")
    copies = Copies(place)
    await copies.copier.send(str(place.local / "d"), await place.tree.root(), b"d")
    assert (copies.failed, copies.done.links) == ([], 1)
    assert os.readlink(place.export / "d" / "link") == "new"


async def test_a_server_that_is_silent_ends_a_removal(place: Place) -> None:
    """Every other file would be waited for as long."""
    (place.export / "d").mkdir()
    for number in range(30):
        (place.export / "d" / str(number)).touch()
    unanswered(place.caller, "REMOVE")
    told: list[Any] = []
    with pytest.raises(WorldError, match="no answer"):
        await remove(place.tree, b"/d", told.append, recursive=True, force=False)
    assert not told
    assert place.caller.counts()["REMOVE"] < 30


@pytest.mark.parametrize("name", ["file", "link"])
async def test_a_file_is_removed_by_its_name_and_not_as_a_directory(
    place: Place, name: str
) -> None:
    (place.export / "file").write_text("x")
    (place.export / "link").symlink_to("nowhere")
    path = b"/" + name.encode()
    with pytest.raises(CallerError, match="Not a directory"):
        await remove(place.tree, path + b"/", print, recursive=True, force=False)
    assert len(list(place.export.iterdir())) == 2
    await remove(place.tree, path, print, recursive=False, force=False)
    assert [left.name for left in place.export.iterdir()] == [
        {"file": "link", "link": "file"}[name]
    ]


async def test_a_directory_is_removed_with_a_slash_behind_its_name_too(place: Place) -> None:
    (place.export / "d").mkdir()
    await remove(place.tree, b"/d/", print, recursive=True, force=False)
    assert list(place.export.iterdir()) == []


async def test_a_source_that_changes_while_it_is_sent(place: Place) -> None:
    source = place.local / "file"
    source.write_text("before")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        done = await proceed(args)
        os.utime(source, ns=(1, 1))
        return done

    place.caller.between["WRITE"] = between
    with pytest.raises(WorldError, match="changed while it was copied: try again"):
        await upload.put(place.tree, str(source), await place.tree.root(), b"file", place.advance)
    assert list(place.export.iterdir()) == []


@pytest.mark.parametrize("count", [0, 7])
async def test_a_server_that_says_a_wrong_number_of_bytes(place: Place, count: int) -> None:
    """None, or more than it was given: either would have a copy go on for ever, or with a hole."""
    source = place.local / "file"
    source.write_text("bytes!")

    async def between(args: Any, credential: OpaqueAuth, proceed: Proceed) -> Any:
        return dataclasses.replace(await proceed(args), count=count)

    place.caller.between["WRITE"] = between
    with pytest.raises(PeerError, match=f"{count} bytes of a WRITE are there"):
        await upload.put(place.tree, str(source), await place.tree.root(), b"file", place.advance)


async def test_two_that_send_the_same_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was removed is there again at once."""
    source = place.local / "file"
    source.write_text("x")
    root, made = await place.tree.root(), upload.create
    part = upload.part_of(str(source), os.stat(source), b"file")
    assert await made(place.tree, root, part) is not None

    async def removed(*of: object) -> None: ...

    monkeypatch.setattr(upload, "remove", removed)
    with pytest.raises(WorldError, match="another copy of the same is under way"):
        await upload.open_part(place.tree, root, part, False)


def test_a_local_file_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with upload.opened(str(tmp_path / "file")) as file:
        assert os.fstat(file)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(file)


def test_a_part_that_is_not_gone_on_with_is_closed_again(tmp_path: Path) -> None:
    """Somebody else copies to it already; it has a second name, and may be another's."""
    part = str(tmp_path / "part")
    before = descriptors()
    held = download.open_part(part, resume=False)
    with pytest.raises(WorldError, match="another copy of the same is under way"):
        download.open_part(part, resume=True)
    os.close(held)
    os.link(part, tmp_path / "second")
    assert download.open_own(part) is None
    assert descriptors() <= before


def test_a_local_file_that_ends_before_it_should(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert upload.read_all(descriptor, 1, 4) == b"2345"
        with pytest.raises(WorldError, match="became shorter, and ends at 5"):
            upload.read_all(descriptor, 1, 5)
    finally:
        os.close(descriptor)
