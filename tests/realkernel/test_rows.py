"""The conformance suite's rows about Linux, asked of Linux: where it has kernel TLS."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from tests.conformance import linux_receiving, ours
from tests.conformance.collection import LINUX_SOURCES, ROWS
from tests.conformance.rows import LINUX, Row
from tests.conftest import KERNEL_LACKS
from tests.realkernel.realworld import NotAsked, RealWorld, close_all
from umktls.errors import UmktlsError
from umktls.kernel.sockets import hosttls


def this_kernel() -> str | None:
    """The personality that is this machine's kernel; None if none is."""
    major, minor, *_ = os.uname().release.split(".")
    version = int(major), int("".join(filter(str.isdigit, minor.split("-")[0])))
    if version >= (6, 19):
        return "linux"
    return "linux6.12" if (6, 8) <= version < (6, 14) else None


PERSONALITY = this_kernel()
PROBLEM = hosttls.problem() or (PERSONALITY is None and "another version than those modelled")
if PROBLEM:
    pytest.skip(f"{KERNEL_LACKS} TLS: {PROBLEM}", allow_module_level=True)

assert PERSONALITY in LINUX
RUNS = [
    pytest.param(row, variant, id=f"{row.name}-{variant}")
    for row in ROWS
    if row.check and PERSONALITY in row.personalities and row.module != ours.__name__
    for variant in row.variants or (None,)
]


def no_model(*_: object) -> None:
    raise NotAsked("a second socket with the first one's counters")


@pytest.mark.parametrize(("row", "variant"), RUNS)
def test_row(row: Row, variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in LINUX_SOURCES:
        # For rows that need another socket.
        monkeypatch.setattr(module, "World", RealWorld)
    monkeypatch.setattr(linux_receiving, "KtlsSocket", no_model)
    assert row.check is not None
    assert PERSONALITY is not None
    arguments = () if variant is None else (variant,)
    try:
        row.check(RealWorld(PERSONALITY), *arguments)
    except NotAsked as error:
        pytest.xfail(f"only a model can be asked: {error}")
    except UmktlsError as error:
        if error.errno == errno.ENOENT:
            pytest.xfail("this kernel was built without that cipher")
        raise
    finally:
        close_all()
