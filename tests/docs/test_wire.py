"""docs/wire.md says what the code does: its tables against the code's tables."""

from __future__ import annotations

import errno
import re
import struct
import typing
from pathlib import Path

import pytest

from umktls.abi import freebsd, linux, rpctls
from umktls.abi import netlink as nl
from umktls.abi.freebsd import ERRNO, TlsEnable
from umktls.kernel.host.config import HostConfig
from umktls.kernel.host.utrace import UTRACE_EVENTS
from umktls.rpc import xdr
from umktls.upcall.captured import CAPTURE_BYTES, CAPTURE_SECRETS
from umktls.upcall.genl import Attribute
from umktls.upcall.handshake import ACCEPT, DONE, READY
from umktls.upcall.netlink import MAX_DATAGRAM
from umktls.upcall.syscalls import (
    MAX_CONTROL,
    MAX_DATA,
    MAX_MESSAGE,
    MAX_OPTION,
    MAX_PATH,
    MAX_SEGMENT,
    MAX_SEGMENTS,
    MAX_UTRACE,
    SYSCALLS,
)
from umktls.upcall.versions import VERSIONS

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
Row = dict[str, str]


def tables(text: str) -> list[list[Row]]:
    """All tables of the page, each row by the names of its columns."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")
        ]
        head, _, *rows = [line for line in lines if line != [""]]
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def table(*columns: str) -> list[Row]:
    """The one table with these columns."""
    (found,) = (rows for rows in tables(PAGE) if set(columns) <= set(rows[0]))
    return found


def fields_of(arguments: type[xdr.Struct]) -> list[str]:
    return [name for name in typing.get_type_hints(arguments) if name != "xdr"]


def test_system_calls_have_their_numbers_names_and_arguments() -> None:
    rows = table("number", "name", "arguments", "result")
    written = {
        int(row["number"]): (row["name"], [word.split()[0] for word in row["arguments"].split(",")])
        for row in rows
    }
    assert written == {
        call.number: (call.name, fields_of(call.arguments)) for call in SYSCALLS.values()
    }


def test_only_file_descriptors_levels_names_and_how_are_signed() -> None:
    """`int` in the page is a signed one in the code, and nothing else is."""
    for row in table("number", "name", "arguments", "result"):
        call = SYSCALLS[int(row["number"])]
        hints = typing.get_type_hints(call.arguments, include_extras=True)
        signed = {name for name, hint in hints.items() if hint == xdr.Int}
        words = [word.split() for word in row["arguments"].split(",")]
        assert {word[0] for word in words if word[1:] == ["int"]} == signed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("No datagram is longer than\n{} bytes", MAX_MESSAGE),
        ("path opaque<{}>", MAX_PATH),
        ("data opaque<{}>, control", MAX_DATA),
        ("control opaque<{}>", MAX_CONTROL),
        ("value opaque<{}>", MAX_OPTION),
        ("memory segment<{}>", MAX_SEGMENTS),
        ("data opaque<{}>`", MAX_SEGMENT),
        ("| data opaque<{}> |", MAX_UTRACE),
        ("message is at most {} bytes", rpctls.RPC_MAXDATASIZE),
        ("SOL_UMKTLS is 0x{:X}", rpctls.SOL_UMKTLS),
        ("IPPROTO_TCP is {}", freebsd.IPPROTO_TCP),
        ("({:g} s\nunless set otherwise", rpctls.UPCALL_TIMEOUT),
        ("and up to {} that register then add up", rpctls.RPCTLS_SRV_MAXNPROCS),
        ("MSG_EOR 0x{:x}", freebsd.MSG_EOR),
        ("MSG_CTRUNC 0x{:x}", freebsd.MSG_CTRUNC),
        ("MSG_DONTWAIT (0x{:x})", freebsd.MSG_DONTWAIT),
        ("AF_NETLINK ({})", nl.AF_NETLINK),
        ("SOCK_RAW ({})", nl.SOCK_RAW),
        ("NETLINK_GENERIC ({})", nl.NETLINK_GENERIC),
        ("SOL_NETLINK ({})", nl.SOL_NETLINK),
        ("NETLINK_ADD_MEMBERSHIP ({})", nl.NETLINK_ADD_MEMBERSHIP),
        ("NETLINK_DROP_MEMBERSHIP ({})", nl.NETLINK_DROP_MEMBERSHIP),
        ("NLM_F_REQUEST ({})", nl.NLM_F_REQUEST),
        ("NLM_F_ACK ({})", nl.NLM_F_ACK),
        ("NLMSG_ERROR is {}", nl.NLMSG_ERROR),
        ("at most {} bytes long, and begins", MAX_DATAGRAM),
        ("up to {} at once", HostConfig("client").connects),
        ("{} for AES-GCM", freebsd.CRYPTO_AES_NIST_GCM_16),
        ("{} for ChaCha20-Poly1305", freebsd.CRYPTO_CHACHA20_POLY1305),
        ("SOL_TLS, which is {}", linux.SOL_TLS),
        ("TCP_ULP is {}", linux.TCP_ULP),
        ("TLS_TX is {}", linux.TLS_TX),
        ("TLS_RX is {}", linux.TLS_RX),
        ("(0x{:04x} for TLS 1.3)", linux.TLS_1_3_VERSION),
        ("TLS_SET_RECORD_TYPE ({})", linux.TLS_SET_RECORD_TYPE),
        ("TLS_GET_RECORD_TYPE\n({})", linux.TLS_GET_RECORD_TYPE),
        ("EKEYEXPIRED, which is {}", errno.EKEYEXPIRED),
        ("MSG_DONTWAIT is 0x{:x}", linux.MSG_DONTWAIT),
        ("MSG_EOR 0x{:x}, MSG_CTRUNC 0x8", linux.MSG_EOR),
        ("MSG_CTRUNC 0x{:x}, MSG_NOSIGNAL 0x4000", linux.MSG_CTRUNC),
        ("MSG_NOSIGNAL 0x{:x}; MSG_MORE", linux.MSG_NOSIGNAL),
        ("MSG_NOSIGNAL 0x{:x}.", freebsd.MSG_NOSIGNAL),
        ("MSG_MORE\n(0x{:x}) keeps", linux.MSG_MORE),
        ("bit 1 (value {}), bytes", CAPTURE_BYTES),
        ("bit 2 (value {}), the key log", CAPTURE_SECRETS),
    ],
)
def test_numbers_in_the_text(text: str, number: int) -> None:
    assert text.format(number) in PAGE


def test_operations_of_rpctls_syscall() -> None:
    written = {row["name"]: int(row["op"]) for row in table("op", "name", "effect")}
    assert written == {op.name: op.value for op in rpctls.RpctlsSysc}


def test_socket_options() -> None:
    for row in table("level", "number", "way"):
        module = freebsd if row["level"] == "IPPROTO_TCP" else rpctls
        assert getattr(module, row["name"]) == int(row["number"])
    ours = {row["name"] for row in table("level", "number", "way") if row["level"] == "SOL_UMKTLS"}
    known = {name for name in vars(rpctls) if name.startswith("UMKTLS_")}
    assert ours == known


def test_struct_tls_enable() -> None:
    """Each field is set to a value of its own and found where the page says."""
    rows = table("offset", "field", "bytes")
    assert [row["field"] for row in rows] == list(TlsEnable.__slots__)
    values = {row["field"]: 0x41 + number for number, row in enumerate(rows)}
    packed = TlsEnable(**values).pack()
    assert len(packed) == 64
    for row in rows:
        start, size = int(row["offset"]), int(row["bytes"])
        order: typing.Literal["big", "little"] = "big" if row["field"] == "rec_seq" else "little"
        assert int.from_bytes(packed[start : start + size], order) == values[row["field"]]


def test_crypto_info() -> None:
    rows = table("cipher_type", "suite", "iv", "key", "salt")
    for row in rows:
        layout = linux.CRYPTO_INFO_LAYOUTS[int(row["cipher_type"])]
        sizes = (layout.iv, layout.key, layout.salt, layout.rec_seq, layout.size)
        assert layout.name == row["suite"]
        assert (
            tuple(int(row[column]) for column in ("iv", "key", "salt", "rec_seq", "all")) == sizes
        )
    fields = [name for name in rows[0] if name in ("iv", "key", "salt", "rec_seq")]
    assert fields == [name for name in linux.CryptoInfo.__slots__ if name in fields]


def test_control_messages() -> None:
    for row in table("type", "name", "with"):
        assert getattr(freebsd, row["name"]) == int(row["type"])
    message = freebsd.pack_control(6, 2, bytes(6))
    assert (len(message), message[:4]) == (24, (22).to_bytes(4, "little"))


def test_events_of_utrace() -> None:
    written = {
        row["event"]: tuple(field.strip() for field in row["fields"].split(","))
        for row in table("event", "fields")
    }
    assert written == UTRACE_EVENTS


def test_error_numbers() -> None:
    for row in table("name", "FreeBSD", "Linux"):
        assert ERRNO[row["name"]] == int(row["FreeBSD"]) != int(row["Linux"])
        assert getattr(errno, row["name"]) == int(row["Linux"])
    calls, numbers = PAGE.split("### errno")
    for name in re.findall(r"\bE[A-Z]{3,}\b", calls):
        assert not hasattr(errno, name) or name in numbers.split("## Upcalls")[0]
    (line,) = re.findall(r"The same everywhere: (.*)\.", PAGE)
    for name, number in (item.split() for item in line.split(", ")):
        assert ERRNO[name] == getattr(errno, name) == int(number)


def test_upcall_programs_and_procedures() -> None:
    rows = {row["program"]: row for row in table("program", "number", "versions")}
    written = {row["procedure"]: int(row["number"]) for row in table("procedure", "number")}
    for version in VERSIONS.values():
        for program in version.programs.values():
            row = rows[program.name]
            assert int(row["number"], 16) == program.number
            assert str(program.version) in row["versions"].split(", ")
            assert written == {p.name: p.number for p in program.procedures.values()}


def test_netlink() -> None:
    layout = table("offset", "nlmsghdr")
    assert [int(row["bytes"]) for row in layout] == [
        struct.calcsize(f"<{code}") for code in nl.NLMSGHDR.format.lstrip("<")
    ]
    cells = " ".join(" ".join(row.values()) for row in table("message", "nlmsg_type"))
    for name, number in re.findall(r"((?:CTRL|RPCNL)_\w+) (\d+)", cells):
        assert getattr(nl, name) == int(number)
    for row in table("error", "number"):
        assert ERRNO[row["error"]] == int(row["number"])


def test_answers_of_upcalls() -> None:
    errors = {row["name"]: int(row["reterr"]) for row in table("reterr", "name")}
    assert errors == {error.name: error.value for error in rpctls.RpctlsErr}
    flags = {row["name"]: int(row["flag"], 16) for row in table("flag", "name")}
    assert flags == {flag.name: flag.value for flag in rpctls.RpctlsFlags}


def test_the_family_handshake() -> None:
    """Each attribute that a message can have, its number and its type."""
    written: dict[str, list[tuple[str, str]]] = {}
    message = ""
    for row in table("message", "number", "attribute", "type", "what"):
        message = row["message"] or message
        written.setdefault(message, []).append((row["attribute"], row["type"]))

    def told(attributes: tuple[Attribute, ...]) -> list[tuple[str, str]]:
        return [(f"{one.name} {one.number}", one.kind) for one in attributes]

    assert written == {
        "READY": told(READY.gives),
        "ACCEPT, request": told(ACCEPT.takes),
        "ACCEPT, answer": told(ACCEPT.gives),
        "DONE": told(DONE.takes),
    }
