"""How often a call asks the host's file system for attributes: no more than its reply needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nfsd.client import Client
from umktls.nfs.types import SERVER_TIME, createhow3, createmode3, diropargs3, sattr3, stable_how

Prepared = tuple[str, tuple[Any, ...]]


def getattr_(client: Client, root: bytes) -> Prepared:
    return "GETATTR", (root,)


def lookup(client: Client, root: bytes) -> Prepared:
    return "LOOKUP", (diropargs3(root, b"new"),)


def create(client: Client, root: bytes) -> Prepared:
    how = createhow3(createmode3.UNCHECKED, sattr3(mode=0o644, size=0))
    return "CREATE", (diropargs3(root, b"created"), how)


def create_with_times(client: Client, root: bytes) -> Prepared:
    how = createhow3(createmode3.GUARDED, sattr3(mode=0o644, mtime=SERVER_TIME))
    return "CREATE", (diropargs3(root, b"created"), how)


def mkdir(client: Client, root: bytes) -> Prepared:
    return "MKDIR", (diropargs3(root, b"made"), sattr3(mode=0o755))


def read(client: Client, root: bytes) -> Prepared:
    return "READ", (client.lookup(root, b"new"), 0, 10)


def write(client: Client, root: bytes) -> Prepared:
    return "WRITE", (client.lookup(root, b"new"), 0, 1, stable_how.UNSTABLE, b"x")


def remove(client: Client, root: bytes) -> Prepared:
    return "REMOVE", (diropargs3(root, b"new"),)


def remove_what_is_known(client: Client, root: bytes) -> Prepared:
    client.lookup(root, b"new")
    return remove(client, root)


TIMES: dict[Callable[[Client, bytes], Prepared], int] = {
    getattr_: 1,
    lookup: 2,  # the file and the directory
    create: 3,  # the directory, the file, the directory after that
    create_with_times: 4,  # and the file before they are set
    mkdir: 3,
    read: 1,  # after that; root may read whoever the owner is
    write: 2,
    remove: 2,  # the directory, before and after
    remove_what_is_known: 3,  # and whether the file has another name
}


@pytest.mark.skipif(os.geteuid() != 0, reason="files are found otherwise without root")
@pytest.mark.parametrize("locate", ["kernel"], indirect=True)
@pytest.mark.parametrize("prepare", TIMES)
def test_a_file_is_asked_once(
    client: Client,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Client, bytes], Prepared],
) -> None:
    (root / "new").touch()
    name, args = prepare(client, client.mount())
    asked: list[int] = []
    fstat = os.fstat

    def counted(fd: int) -> os.stat_result:
        asked.append(fd)
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", counted)
    client.ok(name, *args)
    monkeypatch.undo()
    assert len(asked) == TIMES[prepare]
