"""NFS and MOUNT: known answers by hand, and laws for arguments and results of all procedures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.laws import (
    check_exact_length,
    check_flipped,
    check_round_trip,
    decoded_or_none,
    encoded,
)
from tests.rpc.strategies import values_of
from umktls.errors import CallerError
from umktls.nfs import types
from umktls.nfs.mount import exportnode, groupnode, mountres3_fail, mountres3_ok, mountstat3
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import nfsstat3
from umktls.rpc import xdr

NAMES = [
    "NULL",
    "GETATTR",
    "SETATTR",
    "LOOKUP",
    "ACCESS",
    "READLINK",
    "READ",
    "WRITE",
    "CREATE",
    "MKDIR",
    "SYMLINK",
    "MKNOD",
    "REMOVE",
    "RMDIR",
    "RENAME",
    "LINK",
    "READDIR",
    "READDIRPLUS",
    "FSSTAT",
    "FSINFO",
    "PATHCONF",
    "COMMIT",
]
MOUNT_NAMES = ["NULL", "MNT", "DUMP", "UMNT", "UMNTALL", "EXPORT"]
ONCE = {
    *("SETATTR", "WRITE", "CREATE", "MKDIR", "SYMLINK", "MKNOD"),
    *("REMOVE", "RMDIR", "RENAME", "LINK"),
}

CODECS: dict[str, xdr.Codec[Any]] = {
    f"{program.name} {procedure.name} {side}": codec
    for program in (NFS3, MOUNT3)
    for procedure in program.procedures.values()
    for side, codec in (("args", procedure.args), ("result", procedure.result))
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
few = settings(max_examples=20)


def test_the_programs() -> None:
    assert (NFS3.number, NFS3.version) == (100003, 3)
    assert (MOUNT3.number, MOUNT3.version) == (100005, 3)
    assert [NFS3.procedures[n].name for n in range(22)] == NAMES
    assert [MOUNT3.procedures[n].name for n in range(6)] == MOUNT_NAMES
    assert (len(NFS3.procedures), len(MOUNT3.procedures)) == (22, 6)
    assert {p.name for p in NFS3.procedures.values() if not p.idempotent} == ONCE


TIME = types.nfstime3(1, 2)
ATTR = types.fattr3(
    types.ftype3.NF3DIR, 0o755, 3, 4, 5, 6, 7, types.specdata3(8, 9), 10, 11, TIME, TIME, TIME
)
ATTR_HEX = """
    00000002 000001ed 00000003 00000004 00000005 0000000000000006 0000000000000007
    00000008 00000009 000000000000000a 000000000000000b
    00000001 00000002 00000001 00000002 00000001 00000002
"""
WCC = types.wcc_data(types.wcc_attr(1, TIME, TIME), None)
WCC_HEX = "00000001 0000000000000001 00000001 00000002 00000001 00000002 00000000"
WHERE = types.diropargs3(b"dir", b"name1")
WHERE_HEX = "00000003 64697200 00000005 6e616d65 31000000"

KNOWN: list[tuple[str, str, Any, str]] = [
    ("GETATTR", "args", types.GETATTR3args(b"\1\2\3"), "00000003 01020300"),
    ("GETATTR", "result", types.GETATTR3resok(ATTR), f"00000000 {ATTR_HEX}"),
    ("GETATTR", "result", types.GETATTR3resfail(nfsstat3.NFS3ERR_STALE), "00000046"),
    (
        "SETATTR",
        "args",
        types.SETATTR3args(
            b"\1",
            types.sattr3(0o644, None, 5, 1 << 32, types.SERVER_TIME, TIME),
            types.nfstime3(8, 9),
        ),
        """
        00000001 01000000  00000001 000001a4  00000000  00000001 00000005
        00000001 0000000100000000  00000001  00000002 00000001 00000002
        00000001 00000008 00000009
        """,
    ),
    (
        "SETATTR",
        "args",
        types.SETATTR3args(b"", types.sattr3()),
        "00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000",
    ),
    (
        "LOOKUP",
        "result",
        types.LOOKUP3resok(b"\1\2", ATTR, None),
        f"00000000 00000002 01020000 00000001 {ATTR_HEX} 00000000",
    ),
    (
        "LOOKUP",
        "result",
        types.LOOKUP3resfail(nfsstat3.NFS3ERR_NOENT),
        "00000002 00000000",
    ),
    (
        "READ",
        "result",
        types.READ3resok(None, 5, True, b"hello"),
        "00000000 00000000 00000005 00000001 00000005 68656c6c 6f000000",
    ),
    (
        "WRITE",
        "args",
        types.WRITE3args(b"\1", 2, 3, types.stable_how.FILE_SYNC, b"abc"),
        "00000001 01000000 0000000000000002 00000003 00000002 00000003 61626300",
    ),
    (
        "CREATE",
        "args",
        types.CREATE3args(
            WHERE, types.createhow3(types.createmode3.EXCLUSIVE, verf=b"\1\2\3\4\5\6\7\x08")
        ),
        f"{WHERE_HEX} 00000002 0102030405060708",
    ),
    (
        "CREATE",
        "args",
        types.CREATE3args(WHERE, types.createhow3(types.createmode3.GUARDED, types.sattr3())),
        f"{WHERE_HEX} 00000001" + "00000000" * 6,
    ),
    (
        "CREATE",
        "result",
        types.CREATE3resok(b"\1", None, WCC),
        f"00000000 00000001 00000001 01000000 00000000 {WCC_HEX}",
    ),
    (
        "MKNOD",
        "args",
        types.MKNOD3args(
            WHERE,
            types.mknoddata3(types.ftype3.NF3BLK, types.sattr3(), types.specdata3(8, 1)),
        ),
        f"{WHERE_HEX} 00000003" + "00000000" * 6 + "00000008 00000001",
    ),
    (
        "MKNOD",
        "args",
        types.MKNOD3args(WHERE, types.mknoddata3(types.ftype3.NF3REG)),
        f"{WHERE_HEX} 00000001",
    ),
    (
        "RENAME",
        "result",
        types.RENAME3resfail(nfsstat3.NFS3ERR_XDEV, WCC),
        f"00000012 {WCC_HEX} 00000000 00000000",
    ),
    (
        "READDIRPLUS",
        "result",
        types.READDIRPLUS3resok(
            None,
            b"verifier",
            types.dirlistplus3(
                [
                    types.entryplus3(1, b".", 2, None, b"\7"),
                    types.entryplus3(3, b"..", 4, ATTR, None),
                ],
                False,
            ),
        ),
        f"""
        00000000 00000000 7665726966696572
        00000001 0000000000000001 00000001 2e000000 0000000000000002
            00000000 00000001 00000001 07000000
        00000001 0000000000000003 00000002 2e2e0000 0000000000000004
            00000001 {ATTR_HEX} 00000000
        00000000 00000000
        """,
    ),
    (
        "READDIR",
        "result",
        types.READDIR3resok(None, bytes(8), types.dirlist3([], True)),
        "00000000 00000000 0000000000000000 00000000 00000001",
    ),
]
MOUNT_KNOWN: list[tuple[str, str, Any, str]] = [
    ("MNT", "args", b"/a", "00000002 2f610000"),
    (
        "MNT",
        "result",
        mountres3_ok(b"\1", (1, 0)),
        "00000000 00000001 01000000000000020000000100000000",
    ),
    ("MNT", "result", mountres3_fail(mountstat3.MNT3ERR_ACCES), "0000000d"),
    (
        "EXPORT",
        "result",
        [exportnode(b"/a", [groupnode(b"b")]), exportnode(b"/c", [])],
        """
        00000001 00000002 2f610000 00000001 00000001 62000000 00000000
        00000001 00000002 2f630000 00000000
        00000000
        """,
    ),
]


@pytest.mark.parametrize(
    ("codec", "value", "expected"),
    [(CODECS[f"NFS {name} {side}"], v, e) for name, side, v, e in KNOWN]
    + [(CODECS[f"MOUNT {name} {side}"], v, e) for name, side, v, e in MOUNT_KNOWN],
)
def test_known_answers(codec: xdr.Codec[Any], value: Any, expected: str) -> None:
    data = bytes.fromhex(expected.replace("\n", ""))
    assert encoded(codec, value).hex() == data.hex()
    assert codec.decode_untrusted(data) == value


def test_server_time_is_told_by_identity() -> None:
    codec = xdr.codec(types.sattr3)
    value = codec.decode_untrusted(encoded(codec, types.sattr3(mtime=types.SERVER_TIME)))
    assert value.mtime is types.SERVER_TIME
    assert value.atime is types.DONT_CHANGE


def test_success_has_its_status_as_a_class_attribute() -> None:
    for name in NAMES[1:]:
        resok = getattr(types, f"{name}3resok")
        assert resok.status is nfsstat3.NFS3_OK
        assert "status" not in resok.__slots__


@every_codec
@few
@given(data=st.data())
def test_round_trip(codec: xdr.Codec[Any], data: st.DataObject) -> None:
    check_round_trip(codec, data.draw(values_of(codec)))


@every_codec
@few
@given(data=st.data(), cut=st.integers(0, 10_000))
def test_exact_length(codec: xdr.Codec[Any], data: st.DataObject, cut: int) -> None:
    check_exact_length(codec, data.draw(values_of(codec)), cut)


@every_codec
@few
@given(data=st.data(), place=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_a_changed_byte(codec: xdr.Codec[Any], data: st.DataObject, place: int, mask: int) -> None:
    check_flipped(codec, data.draw(values_of(codec)), place, mask)


@every_codec
@few
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes(codec: xdr.Codec[Any], data: bytes) -> None:
    decoded_or_none(codec, data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("GETATTR", "00000041" + "00" * 68),
        ("READ", "00000001 01000000 0000000000000000"),
        ("CREATE", f"{WHERE_HEX} 00000003"),
        ("MKNOD", f"{WHERE_HEX} 00000008"),
        ("WRITE", "00000001 01000000 0000000000000000 00000001 00000003 00000001 61000000"),
        ("SETATTR", "00000001 01000000" + "00000000" * 4 + "00000003 00000000 00000000"),
        ("READDIR", "00000000 0000000000000000 00000000"),
    ],
)
def test_refused_arguments(name: str, data: str) -> None:
    with pytest.raises(xdr.XdrError):
        NFS3[name].decode_args_untrusted(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (NFS3["GETATTR"].args, types.GETATTR3args(bytes(65))),
        (NFS3["GETATTR"].result, types.GETATTR3resfail(nfsstat3.NFS3_OK)),
        (NFS3["GETATTR"].result, types.ACCESS3resfail(nfsstat3.NFS3ERR_IO)),
        (NFS3["COMMIT"].result, types.COMMIT3resok(WCC, b"short")),
        (
            NFS3["CREATE"].args,
            types.CREATE3args(WHERE, types.createhow3(types.createmode3.GUARDED)),
        ),
        (MOUNT3["MNT"].args, bytes(1025)),
    ],
)
def test_values_that_cannot_be_sent(codec: xdr.Codec[Any], value: Any) -> None:
    with pytest.raises(CallerError):
        codec.encode(value)


def test_file_data_is_not_copied() -> None:
    data = bytearray(1 << 20)
    read = NFS3["READ"].encode_result(types.READ3resok(ATTR, len(data), False, data))
    assert [len(part) for part in read] == [104, 1 << 20]
    assert read[1] is data
    write = NFS3["WRITE"].encode_args(
        types.WRITE3args(b"fh", 0, len(data), types.stable_how.UNSTABLE, memoryview(data))
    )
    assert isinstance(write[1], memoryview)
    assert write[1].obj is data
    message = bytearray(b"".join(read))
    got = NFS3["READ"].decode_result_untrusted(message).data
    assert isinstance(got, memoryview)
    assert got.obj is message
