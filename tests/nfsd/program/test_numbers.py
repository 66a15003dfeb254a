"""Every number that a client can send, in the arguments of every procedure, at its limits.

What may come of it is an answer; never a traceback (SYSTEM_ERR), and the server goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.nfs.numbers import lies
from tests.nfsd.client import Client
from umktls.nfs import types
from umktls.nfs.program import NFS3
from umktls.nfs.types import createhow3, createmode3, diropargs3, ftype3, nfstime3, stable_how
from umktls.rpc.message import AcceptedReply, AcceptStat

TIME = nfstime3(5, 6)
SATTR = types.sattr3(0o644, 0, 0, 7, TIME, TIME)
# What is lied about, by procedure: arguments behind the handle of the file, or of the directory
OF_FILE: dict[str, tuple[Any, ...]] = {
    "SETATTR": (SATTR, TIME),
    "ACCESS": (1,),
    "READ": (0, 10),
    "WRITE": (0, 4, stable_how.UNSTABLE, b"data"),
    "COMMIT": (0, 0),
}
OF_DIRECTORY: dict[str, tuple[Any, ...]] = {
    "READDIR": (0, bytes(8), 1024),
    "READDIRPLUS": (0, bytes(8), 1024, 4096),
}
MAKING: dict[str, list[Any]] = {
    "CREATE": [
        createhow3(createmode3.UNCHECKED, SATTR),
        createhow3(createmode3.GUARDED, SATTR),
    ],
    "MKDIR": [SATTR],
    "SYMLINK": [types.symlinkdata3(SATTR, b"target")],
    "MKNOD": [
        types.mknoddata3(ftype3.NF3CHR, SATTR, types.specdata3(1, 3)),
        types.mknoddata3(ftype3.NF3FIFO, SATTR),
    ],
}


@pytest.fixture
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.WARNING)
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.exc_info] == []


def cases(client: Client) -> Iterator[tuple[str, Any]]:
    """True arguments of all procedures that have numbers in them."""
    directory = client.mount()
    file = client.create(directory, b"file")
    client.write(file, 0, b"something")
    for name, rest in OF_FILE.items():
        yield name, getattr(types, f"{name}3args")(file, *rest)
    for name, rest in OF_DIRECTORY.items():
        yield name, getattr(types, f"{name}3args")(directory, *rest)
    for name, ways in MAKING.items():
        for way in ways:
            yield name, getattr(types, f"{name}3args")(diropargs3(directory, b"new"), way)


@pytest.mark.usefixtures("no_traceback")
def test_every_number_in_all_arguments(client: Client) -> None:
    count = 0
    for name, true in list(cases(client)):
        for where, args in lies(NFS3[name].args, true):
            reply = client.raw(NFS3, name, args)
            assert isinstance(reply, AcceptedReply), (name, where)
            assert reply.status in (AcceptStat.SUCCESS, AcceptStat.GARBAGE_ARGS), (name, where)
            for again in ("REMOVE", "RMDIR"):
                client.nfs(again, diropargs3(client.mount(), b"new"))
            count += 1
    assert count > 300
    assert client.read(client.create(client.mount(), b"after")) == b""


def test_all_procedures_with_numbers_are_tried() -> None:
    """Those without a number have handles and names alone."""
    tried = {*OF_FILE, *OF_DIRECTORY, *MAKING}
    handles = {"GETATTR", "LOOKUP", "READLINK", "REMOVE", "RMDIR", "RENAME", "LINK"}
    assert tried | handles | {"NULL", "FSSTAT", "FSINFO", "PATHCONF"} == {
        procedure.name for procedure in NFS3.procedures.values()
    }


def test_a_number_that_is_too_large_is_said_to_be(client: Client) -> None:
    file = client.create(client.mount(), b"file")
    for size in (2**63, 2**64 - 1):
        status = client.status("SETATTR", file, types.sattr3(size=size))
        assert status in (types.nfsstat3.NFS3ERR_FBIG, types.nfsstat3.NFS3ERR_INVAL)
        status = client.status("WRITE", file, size, 1, stable_how.UNSTABLE, b"x")
        assert status in (types.nfsstat3.NFS3ERR_FBIG, types.nfsstat3.NFS3ERR_INVAL)
        result = client.ok("READ", file, size, 10)
        assert (result.count, result.eof) == (0, True)
