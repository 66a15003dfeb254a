"""READDIR and READDIRPLUS: every entry once, whatever happens meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nfsd.client import Client, Pages, user
from tests.nfsd.conftest import Serve
from umktls.nfs.program import NFS3
from umktls.nfs.types import ftype3, nfsstat3
from umktls.nfsd.tree import directory
from umktls.nfsd.tree.directory import FIRST_COOKIE, SETTLED_NS, Entry, Listings, _Listing
from umktls.nfsd.tree.index import IndexLocator
from umktls.nfsd.tree.locate import Locator
from umktls.nfsd.tree.volume import best_locator
from umktls.rpc.message import AcceptedReply

DOTS = [b".", b".."]


@pytest.fixture
def locate() -> Callable[[str], Locator]:
    """How files are found again matters to their handles only."""
    return best_locator


def fill(root: Path, count: int) -> list[bytes]:
    names = [b"entry-%d" % number for number in range(count)]
    for name in names:
        (root / os.fsdecode(name)).touch()
    return names


def test_a_small_directory(client: Client, root: Path) -> None:
    names = fill(root, 3)
    pages = Pages(client, client.mount(), 4096)
    entries = pages.turn()
    assert pages.eof
    assert [entry.name for entry in entries[:2]] == DOTS
    assert sorted(pages.names[2:]) == names
    inodes = {entry.name: entry.fileid for entry in entries}
    assert inodes.pop(b".") == inodes.pop(b"..") == root.stat().st_ino
    assert inodes == {name: (root / os.fsdecode(name)).stat().st_ino for name in names}


def test_an_empty_directory(client: Client) -> None:
    assert Pages(client, client.mount()).all() == DOTS
    assert Pages(client, client.mount(), plus=True).all() == DOTS


def test_above_a_directory(client: Client, root: Path) -> None:
    (root / "d").mkdir()
    entries = Pages(client, client.walk(b"d")).turn()
    assert entries[0].fileid == (root / "d").stat().st_ino
    assert entries[1].fileid == root.stat().st_ino


@pytest.mark.parametrize("locate", [best_locator, IndexLocator])
def test_with_attributes(client: Client, root: Path) -> None:
    (root / "f").write_bytes(b"12345")
    (root / "d").mkdir()
    (root / "l").symlink_to("f")
    os.mkfifo(root / "p")
    entries = {entry.name: entry for entry in Pages(client, client.mount(), 4096, True).turn()}
    types = {name: entry.name_attributes.type for name, entry in entries.items() if name != b".."}
    assert types == {
        b".": ftype3.NF3DIR,
        b"f": ftype3.NF3REG,
        b"d": ftype3.NF3DIR,
        b"l": ftype3.NF3LNK,
        b"p": ftype3.NF3FIFO,
    }
    for name in types:
        assert entries[name].name_handle == client.lookup(client.mount(), name)
        assert entries[name].fileid == entries[name].name_attributes.fileid
    assert entries[b"f"].name_attributes.size == 5
    assert entries[b".."].name_handle is None


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [250, 999, 1024, 8192])
def test_pages_fit(client: Client, root: Path, plus: bool, size: int) -> None:
    """No reply is longer than the client said; and pages are filled."""
    names = fill(root, 40)
    fill(root, 0)
    (root / ("x" * 13)).touch()
    procedure = "READDIRPLUS" if plus else "READDIR"
    top, cookie, verifier, seen = client.mount(), 0, bytes(8), []
    while True:
        sizes = (size, size) if plus else (size,)
        args = NFS3[procedure].args.cls(top, cookie, verifier, *sizes)  # type: ignore[attr-defined]
        reply = client.raw(NFS3, procedure, args)
        assert isinstance(reply, AcceptedReply)
        result: Any = NFS3[procedure].decode_result_untrusted(reply.body)
        if result.status is nfsstat3.NFS3ERR_TOOSMALL:
            assert (plus, size) == (True, 250)
            return
        assert len(reply.body) - 4 <= size
        seen += [entry.name for entry in result.reply.entries]
        if result.reply.eof:
            break
        assert size - (len(reply.body) - 4) < (220 if plus else 40)
        cookie, verifier = result.reply.entries[-1].cookie, result.cookieverf
    assert sorted(seen) == sorted([*DOTS, *names, b"x" * 13])


@pytest.mark.parametrize("plus", [False, True])
def test_behind_the_last_entry_there_is_nothing(client: Client, plus: bool) -> None:
    """An empty page that is the last: it is not that none would fit."""
    pages = Pages(client, client.mount(), plus=plus)
    assert pages.all() == DOTS
    pages.eof = False
    assert pages.turn() == []
    assert pages.eof


def test_too_small(client: Client, root: Path) -> None:
    for count in (0, 50, 100, 127):
        result = client.nfs("READDIR", client.mount(), 0, bytes(8), count)
        assert result.status is nfsstat3.NFS3ERR_TOOSMALL
        assert result.dir_attributes is not None
        status = client.status("READDIRPLUS", client.mount(), 0, bytes(8), 4096, count)
        assert status is nfsstat3.NFS3ERR_TOOSMALL


def test_a_little_dircount_gives_one_entry(client: Client, root: Path) -> None:
    fill(root, 3)
    reply = client.ok("READDIRPLUS", client.mount(), 0, bytes(8), 0, 4096).reply
    assert [entry.name for entry in reply.entries] == [b"."]
    assert not reply.eof


def test_a_cookie_of_another_server(client: Client, root: Path) -> None:
    fill(root, 3)
    last = Pages(client, client.mount()).turn()[-1].cookie
    args = (client.mount(), last, b"whatever", 4096)
    assert client.status("READDIR", *args) is nfsstat3.NFS3ERR_BAD_COOKIE


@pytest.mark.parametrize("name", ["READDIR", "READDIRPLUS"])
def test_a_client_that_has_forgotten_the_verifier_goes_on(
    client: Client, root: Path, name: str
) -> None:
    fill(root, 300)
    top, seen, cookie = client.mount(), set[bytes](), 0
    sizes = (2048,) if name == "READDIR" else (1024, 8192)
    while True:
        reply = client.ok(name, top, cookie, bytes(8), *sizes).reply
        seen |= {entry.name for entry in reply.entries}
        if reply.eof:
            break
        cookie = reply.entries[-1].cookie
        (root / os.fsdecode(reply.entries[-1].name)).unlink(missing_ok=True)
    assert len(seen) == 302


def test_of_a_file(client: Client, root: Path) -> None:
    (root / "f").touch()
    args = (client.walk(b"f"), 0, bytes(8), 4096)
    assert client.status("READDIR", *args) is nfsstat3.NFS3ERR_NOTDIR
    assert client.status("READDIRPLUS", *args, 4096) is nfsstat3.NFS3ERR_NOTDIR


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("forgetful", [False, True])
def test_changes_meanwhile(serve: Serve, root: Path, plus: bool, forgetful: bool) -> None:
    """5,000 entries in small pages while others come and go, with and without a kept listing."""
    names = fill(root, 5000)
    doomed = {name for name in names if name.endswith((b"3", b"7"))}
    lasting = set(names) - doomed
    client = Client(serve())
    pages = Pages(client, client.mount(), 16384 if plus else 4096, plus)
    queue = sorted(doomed)
    added = 0
    while not pages.eof:
        pages.turn()
        for name in queue[:40]:
            (root / os.fsdecode(name)).unlink()
        del queue[:40]
        for number in range(added, added + 20):
            (root / f"added-{number}").touch()
        added += 20
        if forgetful:
            client.server.expire(0)
    assert added > 400
    assert len(pages.names) == len(set(pages.names))
    assert lasting <= set(pages.names)
    assert set(pages.names) <= {*names, *DOTS} | {b"added-%d" % n for n in range(added)}


def test_removing_what_was_listed_empties_a_directory(client: Client, root: Path) -> None:
    """What rm -r does: read a page, remove what it names, read on."""
    fill(root, 1000)
    pages = Pages(client, client.mount(), 2048)
    while not pages.eof:
        for entry in pages.turn():
            if entry.name not in DOTS:
                (root / os.fsdecode(entry.name)).unlink()
    assert os.listdir(root) == []


def test_a_restart_meanwhile(serve: Serve, root: Path) -> None:
    names = fill(root, 300)
    client = Client(serve())
    pages = Pages(client, client.mount(), 2048)
    pages.turn()
    pages.client = Client(serve())
    assert sorted(pages.all()) == sorted([*names, *DOTS])


def test_entries_that_are_gone_are_not_in_a_page(client: Client, root: Path) -> None:
    """...even when all that a page would have had are gone."""
    fill(root, 100)
    pages = Pages(client, client.mount(), 1024, plus=True)
    pages.turn()
    for path in root.iterdir():
        path.unlink()
    pages.turn()
    assert pages.eof
    assert len(pages.names) < 10


def test_a_new_listing_is_fresh(client: Client, root: Path) -> None:
    fill(root, 5)
    assert len(Pages(client, client.mount(), 4096).all()) == 7
    fill(root, 6)
    assert len(Pages(client, client.mount(), 4096).all()) == 8


def test_kept_listings_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "KEPT_ENTRIES", 25)
    fill(tmp_path, 10)
    listings = Listings(bytes(32))
    fd = os.open(tmp_path, os.O_RDONLY)
    for number in range(9):
        listings.behind(b"handle-%d" % (number % 4), fd, 0)
        assert len(listings._kept) <= 2
        assert listings._count == 10 * len(listings._kept)
    fill(tmp_path, 100)
    assert len(listings.behind(b"big", fd, 0)) == 100
    assert list(listings._kept) == [b"big"]
    listings.expire(3600)
    assert list(listings._kept) == [b"big"]
    listings.expire(0)
    assert (list(listings._kept), listings._count) == ([], 0)
    os.close(fd)


def test_names_of_one_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cookies are different all the same."""
    monkeypatch.setattr(Listings, "_cookie", lambda self, name: FIRST_COOKIE + len(name) % 2)
    names = fill(tmp_path, 20)
    fd = os.open(tmp_path, os.O_RDONLY)
    listings = Listings(bytes(32))
    entries = listings.behind(b"handle", fd, 0)
    assert sorted(entry.name for entry in entries) == sorted(names)
    cookies = [entry.cookie for entry in entries]
    assert cookies == sorted(set(cookies))
    for index, entry in enumerate(entries):
        assert list(listings.behind(b"handle", fd, entry.cookie)) == list(entries[index + 1 :])
    os.close(fd)


Change = tuple[bool, int]


@given(
    at_first=st.sets(st.integers(0, 40)),
    changes=st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=5)),
    size=st.integers(1, 7),
    kept=st.booleans(),
)
def test_once_each(at_first: set[int], changes: list[list[Change]], size: int, kept: bool) -> None:
    """A model of pages and changes: what was there all the time is seen, and nothing twice."""
    present = {b"%d" % number for number in at_first}
    always = set(present)
    listings = Listings(bytes(32))
    listings._read = lambda fd, most=None: sorted(  # type: ignore[method-assign]
        Entry(listings._cookie(name), name, 0) for name in present
    )
    listings._fresh = lambda fd, kept, most: _Listing(  # type: ignore[method-assign]
        0.0, listings._read(fd), None
    )
    seen: list[bytes] = []
    cookie = 0
    for change in [*changes, *[[]] * 50]:
        page = listings.behind(b"handle", -1, cookie)[:size]
        if not page:
            break
        seen += [entry.name for entry in page]
        cookie = page[-1].cookie
        for adding, number in change:
            name = b"%d" % number
            (present.add if adding else present.discard)(name)
            always &= present
        if not kept:
            listings.expire(0)
    assert len(seen) == len(set(seen))
    assert always <= set(seen)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What it is called for: time enough has passed for a directory's times to tell a change."""
    now = time.time_ns

    def pass_time() -> None:
        monkeypatch.setattr(time, "time_ns", lambda: now() + 2 * SETTLED_NS)

    return pass_time


class Reads:
    """Listings of one directory that count how often it was read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listings, self.count, self._root = Listings(bytes(32)), 0, root
        read = self.listings._read

        def counted(fd: int, most: int | None) -> list[Entry]:
            self.count += 1
            return read(fd, most)

        monkeypatch.setattr(self.listings, "_read", counted)

    def names(self, cookie: int = 0) -> set[bytes]:
        fd = os.open(self._root, os.O_RDONLY)
        try:
            return {entry.name for entry in self.listings.behind(b"handle", fd, cookie)}
        finally:
            os.close(fd)


def test_what_has_not_changed_is_not_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, settled: Callable[[], None]
) -> None:
    reads, names = Reads(root, monkeypatch), set(fill(root, 5))
    settled()
    assert [reads.names() for _ in range(20)] == [names] * 20
    assert reads.count == 1
    for change in (Path.touch, Path.unlink):
        before = root.stat().st_ctime_ns
        change(root / "more")
        os.utime(root, ns=(0, 0))  # whoever sets the time back changes the other one
        while root.stat().st_ctime_ns == before:  # by a clock that may be a coarse one
            os.utime(root, ns=(0, 0))
        reads.names()
    assert reads.names() == names
    assert reads.count == 3
    reads.listings.expire(0)
    reads.names()
    assert reads.count == 4


def test_what_may_have_changed_just_now_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a change is as fine as the file system's clock: two may have one time."""
    reads = Reads(root, monkeypatch)
    for number in range(5):
        (root / str(number)).touch()
        os.utime(root, ns=(0, 0))
        assert len(reads.names()) == number + 1
    assert reads.count == 5


def test_who_may_not_read_it_gets_nothing_that_is_kept(serve: Serve, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("callers are told apart by root only")
    fill(root, 2)
    client = Client(serve())
    top = client.mount()
    client.ok("READDIR", top, 0, bytes(8), 4096)
    root.chmod(0o700)
    stranger = client.as_user(user(1000))
    assert stranger.status("READDIR", top, 0, bytes(8), 4096) is nfsstat3.NFS3ERR_ACCES
