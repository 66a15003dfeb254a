"""How long what daemons and kernel tell each other may be: a length is refused before memory is
taken for it."""

from __future__ import annotations

from typing import Any

import pytest

from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.xdr import XdrError
from umktls.upcall import rpctls, rpctls2, syscalls
from umktls.upcall.deposit import Deposit

KIB = 1024
LONGEST: list[tuple[Any, str, int]] = [
    (syscalls.RpctlsSyscallArgs, "path", KIB),
    (syscalls.Segment, "data", KIB),
    (syscalls.SetsockoptArgs, "value", 64 * KIB),
    (syscalls.SetsockoptArgs, "memory", 8),
    (syscalls.SendmsgArgs, "data", 64 * KIB),
    (syscalls.SendmsgArgs, "control", KIB),
    (syscalls.RecvmsgResult, "data", 64 * KIB),
    (syscalls.RecvmsgResult, "control", KIB),
    (syscalls.UtraceArgs, "data", 4 * KIB),
    (syscalls.TogetherArgs, "requests", 8),
    (rpctls.rpctlssd_connect_res, "gid", 1024),
    (rpctls.rpctlscd_connect_arg, "certname", 255),
    (rpctls2.rpctlssd_connect_res2, "gid", 1024),
    (rpctls2.rpctlscd_connect_arg2, "certname", 255),
    (PeerCertificate, "subject", KIB),
    (PeerCertificate, "issuer", KIB),
    (PeerCertificate, "serial", KIB),
    (PeerCertificate, "names", 32),
    (PeerCertificate, "authorities", 16),
    (Deposit, "suite", 255),
    (Deposit, "tx_secret", 64),
    (Deposit, "rx_secret", 64),
    (Deposit, "address", 255),
    (Deposit, "chain", 16),
    (Deposit, "unfinished", 64 * KIB),
]
PARTS: list[tuple[Any, str, int]] = [
    (syscalls.TogetherArgs, "requests", 8 * KIB),
    (PeerCertificate, "names", KIB),
    (Deposit, "chain", 32 * KIB),
]


def is_limit(codec: Any, longest: int) -> bool:
    """Whether so much can be said and heard, and no more."""
    one = smallest(codec.item) if isinstance(codec, xdr.Array) else b""
    longest_value: Any = (one,) * longest if isinstance(codec, xdr.Array) else bytes(longest)
    assert codec.decode_untrusted(b"".join(codec.encode(longest_value))) == longest_value
    with pytest.raises(CallerError):
        codec.encode(longest_value + longest_value[:1])
    announced = (longest + 1).to_bytes(4, "big")
    with pytest.raises(XdrError, match=f"over its limit of {longest}$"):
        codec.decode_untrusted(announced + bytes(64 * (longest + 1)))
    return True


def smallest(codec: Any) -> Any:
    if isinstance(codec, xdr.Opaque):
        return b""
    if isinstance(codec, xdr.FixedOpaque):
        return bytes(codec.length)
    return 0 if isinstance(codec, xdr.Integer) else syscalls.Segment(0, b"")


@pytest.mark.parametrize(("struct", "field", "longest"), LONGEST)
def test_members(struct: Any, field: str, longest: int) -> None:
    assert is_limit(struct.xdr.fields[field], longest)


@pytest.mark.parametrize(("struct", "field", "longest"), PARTS)
def test_items_of_members(struct: Any, field: str, longest: int) -> None:
    assert is_limit(struct.xdr.fields[field].item, longest)


def test_results_of_options() -> None:
    assert is_limit(syscalls.OPAQUE, 64 * KIB)
