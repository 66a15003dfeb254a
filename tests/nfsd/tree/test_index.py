"""Handles by an index of inode numbers, where the kernel does not open files by handle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nfsd.client import Client, handles_of, tree
from tests.nfsd.conftest import Serve
from umktls.nfs.types import nfsstat3
from umktls.nfsd.tree import index, places
from umktls.nfsd.tree.index import IndexLocator


class TestIndex:
    """What the index alone has to take care of."""

    @pytest.fixture
    def locate(self) -> type[IndexLocator]:
        return IndexLocator

    def test_deeper_than_a_trail(self, serve: Serve, root: Path) -> None:
        path = root.joinpath(*["d"] * 40)
        path.mkdir(parents=True)
        (path / "f").write_bytes(b"deep")
        names = [b"d"] * 40 + [b"f"]
        handle = Client(serve()).walk(*names)
        assert len(handle) == 64
        restarted = Client(serve())
        assert restarted.read(handle) == b"deep"
        assert restarted.walk(*names) == handle

    def test_found_by_its_trail(
        self, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The search reads the directories on the way, and no others."""
        for number in range(100):
            (root / f"d{number}" / "sub").mkdir(parents=True)
            (root / f"d{number}" / "sub" / "f").write_bytes(b"%d" % number)
        handles = {n: Client(serve()).walk(b"d%d" % n, b"sub", b"f") for n in range(0, 100, 9)}
        read: list[int] = []
        original = index._read_directory

        def counting(fd: int) -> list[index._Entry]:
            read.append(fd)
            return original(fd)

        monkeypatch.setattr(index, "_read_directory", counting)
        for number, handle in handles.items():
            read.clear()
            assert Client(serve()).read(handle) == b"%d" % number
            assert len(read) < 12  # 3 on the way, and some of the same hash

    def test_gone_is_looked_for_once(
        self, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree(root)
        client = Client(serve())
        handle = client.walk(b"a", b"one")
        (root / "a" / "one").unlink()
        client.server.expire(0)
        assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE
        monkeypatch.setattr(index, "_read_directory", None)
        assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE

    def test_what_went_and_came_back(self, serve: Serve, root: Path, tmp_path: Path) -> None:
        (root / "f").write_bytes(b"back")
        client = Client(serve())
        handle = client.walk(b"f")
        (root / "f").rename(tmp_path / "f")
        client.server.expire(0)
        assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE
        (tmp_path / "f").rename(root / "g")
        assert client.walk(b"g")
        client.server.expire(0)
        assert client.read(handle) == b"back"

    def test_few_places(self, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(places, "PLACES_LIMIT", 3)
        monkeypatch.setattr(places, "GONE_LIMIT", 3)
        client = Client(serve())
        files = tree(root)
        handles = handles_of(client, files)
        client.server.expire(0)
        for handle, data in handles.items():
            assert client.read(handle) == data
        for path in files:
            (root / path).unlink()
        client.server.expire(0)
        for _ in range(2):
            for handle in handles:
                assert client.status("GETATTR", handle) is nfsstat3.NFS3ERR_STALE

    def test_remembered_so_deep_at_most(
        self, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is deeper is searched for."""
        monkeypatch.setattr(index, "DEPTH_LIMIT", 2)
        (root / "1" / "2" / "3").mkdir(parents=True)
        client = Client(serve())
        second, third = client.walk(b"1", b"2"), client.walk(b"1", b"2", b"3")
        client.server.expire(0)
        searched: list[int] = []
        original = index._read_directory

        def counting(fd: int) -> list[index._Entry]:
            searched.append(fd)
            return original(fd)

        monkeypatch.setattr(index, "_read_directory", counting)
        assert client.status("GETATTR", second) is nfsstat3.NFS3_OK
        assert searched == []
        assert client.status("GETATTR", third) is nfsstat3.NFS3_OK
        assert searched

    def test_places_that_lead_round(self, serve: Serve, root: Path) -> None:
        """As they do when directories have changed places, and one was seen since."""
        (root / "a" / "b").mkdir(parents=True)
        client = Client(serve())
        above, below = client.walk(b"a"), client.walk(b"a", b"b")
        (root / "a" / "b").rename(root / "b")
        (root / "a").rename(root / "b" / "a")
        assert client.lookup(below, b"a") == above
        client.server.expire(0)
        for handle in (above, below):
            assert client.status("GETATTR", handle) is nfsstat3.NFS3_OK

    def test_found_by_a_search_though_it_cannot_be_remembered(
        self, serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(places, "PLACES_LIMIT", 1)
        (root / "f").write_bytes(b"moved")
        (root / "a" / "b").mkdir(parents=True)
        client = Client(serve())
        handle = client.walk(b"f")
        (root / "f").rename(root / "a" / "b" / "g")
        client.server.expire(0)
        assert client.read(handle) == b"moved"

    def test_reached_from_below(self, serve: Serve, root: Path) -> None:
        tree(root)
        handle = Client(serve()).walk(b"a", b"b", b"c")
        above = Client(serve()).walk(b"a", b"b")
        restarted = Client(serve())
        assert restarted.lookup(handle, b"..") == above
        assert restarted.lookup(restarted.lookup(above, b".."), b"..") == restarted.mount()
