"""The numbers of rpctls, and that personalities say what the kernels do."""

from __future__ import annotations

import errno

import pytest

from umktls.abi import rpctls
from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES, personality
from umktls.errors import CallerError


def test_rpctls_numbers() -> None:
    assert (rpctls.RPCTLSCD, rpctls.RPCTLSSD) == (0x40677374, 0x40677375)
    assert [int(op) for op in rpctls.RpctlsSysc] == list(range(1, 8))
    assert [int(err) for err in rpctls.RpctlsErr] == [0, 1, 2, 3]
    flags = rpctls.RPCTLS_FLAGS_HANDSHAKE | rpctls.RPCTLS_FLAGS_GOTCERT
    assert int(flags | rpctls.RPCTLS_FLAGS_VERIFIED) == 0x0B
    assert int(rpctls.RPCTLS_FLAGS_HANDSHFAIL) == 0x40


def test_our_option_level_spells_our_name() -> None:
    assert rpctls.SOL_UMKTLS.to_bytes(4, "big") == b"umkt"


def test_personalities_by_name() -> None:
    assert set(PERSONALITIES) == {
        "freebsd13.0",
        "freebsd13",
        "freebsd14",
        "freebsd15",
        "linux6.12",
        "linux",
        "umktls",
    }
    assert personality("umktls") is DEFAULT_PERSONALITY
    assert {p.name: p.rpctls_versions for p in PERSONALITIES.values()} == {
        "freebsd13.0": (1,),
        "freebsd13": (1,),
        "freebsd14": (1,),
        "freebsd15": (2,),
        "linux6.12": (2, 1),
        "linux": (2, 1),
        "umktls": (2, 1),
    }
    assert personality("freebsd14").upcall_seconds("server") == rpctls.UPCALL_TIMEOUT
    assert [personality("linux").upcall_seconds(role) for role in ("client", "server")] == [10, 5]
    assert not personality("freebsd14").keys.rekey
    with pytest.raises(CallerError, match="freebsd14"):
        personality("solaris")


def test_errno_map() -> None:
    assert personality("freebsd14").errno(errno.EAGAIN) == 35
    assert personality("linux").errno(errno.EAGAIN) == errno.EAGAIN
