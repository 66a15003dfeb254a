"""Another implementation reads what we write: tshark dissects every procedure, call and reply.

The expected values are written down as tshark shows them, in the order of the wire; a discriminant
counts as a value. So a field that is missing, moved or of another size is seen.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import patience
from tests.nfs.pcap import Capture
from umktls.nfs import types
from umktls.nfs.mount import exportnode, groupnode, mountbody, mountres3_ok
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfs.types import nfsstat3, nfstime3
from umktls.rpc.message import (
    NULL_AUTH,
    AcceptStat,
    AuthSys,
    encode_accepted,
    encode_call,
)
from umktls.rpc.program import Program

Shown = list[int | str]

CREDENTIAL = AuthSys(0, b"client", 1000, 100, (100, 4)).to_opaque()


def colons(data: bytes) -> str:
    return data.hex(":")


FH1, FH2 = bytes(range(32)), bytes(range(50, 70))
SHOWN1, SHOWN2 = colons(FH1), colons(FH2)
WHERE = types.diropargs3(FH1, b"name1")
WHERE_SHOWN: Shown = [SHOWN1, "name1"]


def time(n: int) -> nfstime3:
    return nfstime3(n, n + 1)


def attributes(n: int) -> types.fattr3:
    device = types.specdata3(n + 6, n + 7)
    times = (time(n + 10), time(n + 20), time(n + 30))
    numbers = (n + 1, n + 2, n + 3, n + 4, n + 5)
    return types.fattr3(types.ftype3.NF3FIFO, 0o640, *numbers, device, n + 8, n + 9, *times)


def attributes_shown(n: int) -> Shown:
    numbers = [n + k for k in (1, 2, 3, 4, 5, 6, 7, 8, 9)]
    return [7, 0o640, *numbers, n + 10, n + 11, n + 20, n + 21, n + 30, n + 31]


def wcc(n: int) -> types.wcc_data:
    return types.wcc_data(types.wcc_attr(n, time(n + 1), time(n + 3)), attributes(n + 5))


def wcc_shown(n: int) -> Shown:
    return [1, n, n + 1, n + 2, n + 3, n + 4, 1, *attributes_shown(n + 5)]


ATTR, ATTR_SHOWN = attributes(1000), attributes_shown(1000)
MAYBE_SHOWN: Shown = [1, *ATTR_SHOWN]
SET = types.sattr3(0o751, 11, 12, 1 << 33, types.SERVER_TIME, time(14))
SET_SHOWN: Shown = [1, 0o751, 1, 11, 1, 12, 1, 1 << 33, 1, 2, 14, 15]
MADE_SHOWN: Shown = [0, 1, SHOWN2, *MAYBE_SHOWN, *wcc_shown(2000)]

ENTRIES = [
    types.entryplus3(1, b"e1", 2, attributes(4000), FH2),
    types.entryplus3(3, b"e22", 4, None, None),
]
ENTRIES_SHOWN: Shown = [1, "e1", 2, 1, *attributes_shown(4000), 1, SHOWN2, 3, "e22", 4, 0, 0]

# (procedure, arguments, what tshark shows of them, result, what tshark shows of it)
NFS_EXCHANGES: list[tuple[str, Any, Shown, Any, Shown]] = [
    ("NULL", None, [], None, []),
    ("GETATTR", types.GETATTR3args(FH1), [SHOWN1], types.GETATTR3resok(ATTR), [0, *ATTR_SHOWN]),
    (
        "SETATTR",
        types.SETATTR3args(FH1, SET, time(5)),
        [SHOWN1, *SET_SHOWN, 1, 5, 6],
        types.SETATTR3resok(wcc(2000)),
        [0, *wcc_shown(2000)],
    ),
    (
        "SETATTR",
        types.SETATTR3args(FH1, types.sattr3()),
        [SHOWN1, 0, 0, 0, 0, 0, 0, 0],
        types.SETATTR3resfail(nfsstat3.NFS3ERR_NOT_SYNC),
        [10002, 0, 0],
    ),
    (
        "LOOKUP",
        types.LOOKUP3args(WHERE),
        WHERE_SHOWN,
        types.LOOKUP3resok(FH2, ATTR, attributes(2000)),
        [0, SHOWN2, *MAYBE_SHOWN, 1, *attributes_shown(2000)],
    ),
    (
        "ACCESS",
        types.ACCESS3args(FH1, 0x2D),
        [SHOWN1, 0x2D],
        types.ACCESS3resok(ATTR, 0x25),
        [0, *MAYBE_SHOWN, 0x25],
    ),
    (
        "READLINK",
        types.READLINK3args(FH1),
        [SHOWN1],
        types.READLINK3resok(ATTR, b"target"),
        [0, *MAYBE_SHOWN, "target"],
    ),
    (
        "READ",
        types.READ3args(FH1, 1 << 33, 4000),
        [SHOWN1, 1 << 33, 4000],
        types.READ3resok(ATTR, 5, True, b"hello"),
        [0, *MAYBE_SHOWN, 5, 1, colons(b"hello")],
    ),
    (
        "WRITE",
        types.WRITE3args(FH1, 1 << 33, 6, types.stable_how.DATA_SYNC, b"world!"),
        [SHOWN1, 1 << 33, 6, 1, colons(b"world!")],
        types.WRITE3resok(wcc(2000), 6, types.stable_how.FILE_SYNC, b"verifier"),
        [0, *wcc_shown(2000), 6, 2, colons(b"verifier")],
    ),
    (
        "CREATE",
        types.CREATE3args(WHERE, types.createhow3(types.createmode3.EXCLUSIVE, verf=b"creation")),
        [*WHERE_SHOWN, 2, colons(b"creation")],
        types.CREATE3resok(FH2, ATTR, wcc(2000)),
        MADE_SHOWN,
    ),
    (
        "CREATE",
        types.CREATE3args(WHERE, types.createhow3(types.createmode3.GUARDED, SET)),
        [*WHERE_SHOWN, 1, *SET_SHOWN],
        types.CREATE3resok(None, None, types.NO_WCC),
        [0, 0, 0, 0, 0],
    ),
    (
        "MKDIR",
        types.MKDIR3args(WHERE, SET),
        [*WHERE_SHOWN, *SET_SHOWN],
        types.MKDIR3resok(FH2, ATTR, wcc(2000)),
        MADE_SHOWN,
    ),
    (
        "SYMLINK",
        types.SYMLINK3args(WHERE, types.symlinkdata3(SET, b"target")),
        [*WHERE_SHOWN, *SET_SHOWN, "target"],
        types.SYMLINK3resok(FH2, ATTR, wcc(2000)),
        MADE_SHOWN,
    ),
    (
        "MKNOD",
        types.MKNOD3args(WHERE, types.mknoddata3(types.ftype3.NF3CHR, SET, types.specdata3(3, 9))),
        [*WHERE_SHOWN, 4, *SET_SHOWN, 3, 9],
        types.MKNOD3resok(FH2, ATTR, wcc(2000)),
        MADE_SHOWN,
    ),
    (
        "MKNOD",
        types.MKNOD3args(WHERE, types.mknoddata3(types.ftype3.NF3FIFO, SET)),
        [*WHERE_SHOWN, 7, *SET_SHOWN],
        types.MKNOD3resfail(nfsstat3.NFS3ERR_BADTYPE),
        [10007, 0, 0],
    ),
    (
        "REMOVE",
        types.REMOVE3args(WHERE),
        WHERE_SHOWN,
        types.REMOVE3resok(wcc(2000)),
        [0, *wcc_shown(2000)],
    ),
    (
        "RMDIR",
        types.RMDIR3args(WHERE),
        WHERE_SHOWN,
        types.RMDIR3resok(wcc(2000)),
        [0, *wcc_shown(2000)],
    ),
    (
        "RENAME",
        types.RENAME3args(WHERE, types.diropargs3(FH2, b"name2")),
        [*WHERE_SHOWN, SHOWN2, "name2"],
        types.RENAME3resok(wcc(2000), wcc(3000)),
        [0, *wcc_shown(2000), *wcc_shown(3000)],
    ),
    (
        "LINK",
        types.LINK3args(FH2, WHERE),
        [SHOWN2, *WHERE_SHOWN],
        types.LINK3resok(ATTR, wcc(3000)),
        [0, *MAYBE_SHOWN, *wcc_shown(3000)],
    ),
    (
        "READDIR",
        types.READDIR3args(FH1, 77, b"cookverf", 4096),
        [SHOWN1, 77, colons(b"cookverf"), 4096],
        types.READDIR3resok(
            ATTR,
            b"verfcook",
            types.dirlist3([types.entry3(1, b"e1", 2), types.entry3(3, b"e22", 4)], True),
        ),
        [0, *MAYBE_SHOWN, colons(b"verfcook"), 1, "e1", 2, 3, "e22", 4, 1],
    ),
    (
        "READDIRPLUS",
        types.READDIRPLUS3args(FH1, 77, b"cookverf", 4096, 8192),
        [SHOWN1, 77, colons(b"cookverf"), 4096, 8192],
        types.READDIRPLUS3resok(
            ATTR,
            b"verfcook",
            types.dirlistplus3(ENTRIES, False),
        ),
        [0, *MAYBE_SHOWN, colons(b"verfcook"), *ENTRIES_SHOWN, 0],
    ),
    (
        "FSSTAT",
        types.FSSTAT3args(FH1),
        [SHOWN1],
        types.FSSTAT3resok(ATTR, 1, 2, 3, 4, 5, 6, 7),
        [0, *MAYBE_SHOWN, 1, 2, 3, 4, 5, 6, 7],
    ),
    (
        "FSINFO",
        types.FSINFO3args(FH1),
        [SHOWN1],
        types.FSINFO3resok(ATTR, 1, 2, 3, 4, 5, 6, 7, 8, time(9), 0x1B),
        [0, *MAYBE_SHOWN, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x1B],
    ),
    (
        "PATHCONF",
        types.PATHCONF3args(FH1),
        [SHOWN1],
        types.PATHCONF3resok(ATTR, 1, 2, True, False, True, False),
        [0, *MAYBE_SHOWN, 1, 2, 1, 0, 1, 0],
    ),
    (
        "COMMIT",
        types.COMMIT3args(FH1, 1 << 34, 99),
        [SHOWN1, 1 << 34, 99],
        types.COMMIT3resok(wcc(2000), b"verifier"),
        [0, *wcc_shown(2000), colons(b"verifier")],
    ),
]

# What follows the status in a failure, where it was left at its default: "no attributes".
FAILURES = {
    **dict.fromkeys(["GETATTR"], 0),
    **dict.fromkeys(["LOOKUP", "ACCESS", "READLINK", "READ", "READDIR", "READDIRPLUS"], 1),
    **dict.fromkeys(["FSSTAT", "FSINFO", "PATHCONF"], 1),
    **dict.fromkeys(
        ["SETATTR", "WRITE", "CREATE", "MKDIR", "SYMLINK", "MKNOD", "REMOVE", "RMDIR", "COMMIT"], 2
    ),
    "LINK": 3,
    "RENAME": 4,
}
FAILED_EXCHANGES: list[tuple[str, Any, Shown | None, Any, Shown]] = [
    (
        name,
        next(exchange[1] for exchange in NFS_EXCHANGES if exchange[0] == name),
        None,
        getattr(types, f"{name}3resfail")(nfsstat3.NFS3ERR_STALE),
        [70, *[0] * absent],
    )
    for name, absent in FAILURES.items()
]

MOUNT_EXCHANGES: list[tuple[str, Any, Shown, Any, Shown]] = [
    ("NULL", None, [], None, []),
    ("MNT", b"/export/a", ["/export/a"], mountres3_ok(FH1, (1, 6)), [0, SHOWN1, 2, 1, 6]),
    (
        "DUMP",
        None,
        [],
        [mountbody(b"h1", b"/d1"), mountbody(b"h2", b"/d2")],
        ["h1", "/d1", "h2", "/d2"],
    ),
    ("UMNT", b"/export/a", ["/export/a"], None, []),
    ("UMNTALL", None, [], None, []),
    (
        "EXPORT",
        None,
        [],
        [exportnode(b"/d1", [groupnode(b"g1"), groupnode(b"g2")]), exportnode(b"/d2", [])],
        ["/d1", "g1", "g2", "/d2"],
    ),
]

EXCHANGES: list[tuple[Program, tuple[str, Any, Shown | None, Any, Shown]]] = [
    *((NFS3, exchange) for exchange in [*NFS_EXCHANGES, *FAILED_EXCHANGES]),
    *((MOUNT3, exchange) for exchange in MOUNT_EXCHANGES),
]


def write_capture(path: Path) -> None:
    capture = Capture()
    for number, (program, (name, args, _, result, _)) in enumerate(EXCHANGES):
        p = program[name]
        xid = 100 + number
        head = encode_call(xid, p.program, p.version, p.number, CREDENTIAL)
        capture.call(b"".join([head, *p.encode_args(args)]))
        head = encode_accepted(xid, NULL_AUTH, AcceptStat.SUCCESS)
        capture.reply(b"".join([head, *p.encode_result(result)]))
    capture.write(path)


Frame = dict[str, Any]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """The layers of each frame as tshark sees them: call, reply, call, reply..."""
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed (Debian: apt-get install tshark)")
    path = tmp_path_factory.mktemp("tshark") / "nfs.pcap"
    write_capture(path)
    command = [tshark, "-n", "-r", str(path), "-T", "json", "--no-duplicate-keys"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=patience(50))
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


# What tshark adds to the values: which procedure it is (tested by itself), lengths and padding, a
# hash, single bits of a number shown before, times as text (their two numbers are shown, too), a
# status twice, and the flags of linked lists, which it gathers in one place.
ADDED = re.compile(
    r"""rpc\.programversion | .*\.procedure_v3 | rpc\.opaque_length | rpc\.fill_bytes
    | nfs\.fh\.(length|hash) | nfs\.mode3\..* | nfs\.fsinfo\.properties\..* | rpc\.value_follows
    | nfs\.access_(read|lookup|modify|extend|delete|execute) | nfs\.[acmd]time | nfs\.status
    """,
    re.VERBOSE,
)


def shown(tree: Any, name: str = "") -> Iterator[int | str]:
    """The values of a dissection, in order."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from shown(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from shown(value, name)
    elif not ADDED.fullmatch(name):
        yield int(tree, 0) if re.fullmatch(r"0x[0-9a-f]+|\d+", tree) else tree


def dissected(frame: Frame, program: Program) -> Frame:
    layer: Frame = frame[program.name.lower()]
    return layer


IDS = [f"{program.name}-{exchange[0]}-{n}" for n, (program, exchange) in enumerate(EXCHANGES)]


@pytest.mark.parametrize("index", range(len(EXCHANGES)), ids=IDS)
def test_tshark_reads_the_values(frames: list[Frame], index: int) -> None:
    program, (name, _, args_shown, _, result_shown) = EXCHANGES[index]
    for frame, expected in zip(frames[2 * index :], (args_shown, result_shown), strict=False):
        layer = dissected(frame, program)
        number = layer[f"{program.name.lower()}.procedure_v3"]
        assert int(number) == program[name].number
        if expected is not None:
            assert list(shown(layer)) == expected


def test_tshark_finds_nothing_malformed(frames: list[Frame]) -> None:
    assert len(frames) == 2 * len(EXCHANGES)
    text = json.dumps(frames)
    assert "malformed" not in text
    assert "_ws.expert" not in text
    assert "unreassembled" not in text


def test_tshark_reads_the_headers(frames: list[Frame]) -> None:
    for index, (program, (name, *_)) in enumerate(EXCHANGES):
        call, reply = frames[2 * index]["rpc"], frames[2 * index + 1]["rpc"]
        assert (call["rpc.msgtyp"], reply["rpc.msgtyp"]) == ("0", "1")
        assert int(call["rpc.xid"], 16) == int(reply["rpc.xid"], 16) == 100 + index
        assert call["rpc.program"] == str(program.number)
        assert call["rpc.procedure"] == str(program[name].number)
        assert reply["rpc.state_accept"] == "0"
    credential = list(shown(frames[0]["rpc"]["Credentials"]))
    assert credential == [1, 36, 0, "client", 1000, 100, 100, 4]
