"""The conformance suite's rows, asked by real system calls: a program that is run by `umktls run`.

python -m tests.run.row_world PERSONALITY [ROW...]: all rows that have calls of Linux, or those. The
program itself knows nothing of umktls but the counters, which a real kernel has in
/proc/net/tls_stat. Says of each row, in a line of JSON, what came of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.conformance import linux_receiving
from tests.conformance.by_calls import Answer, answer, key
from tests.conformance.collection import LINUX_SOURCES, ROWS
from tests.conformance.rows import Row
from tests.realkernel.realworld import NotAsked, RealSocket, RealWorld, Told, close_all
from umktls.abi.linux import CRYPTO_INFO_LAYOUTS, CryptoInfo
from umktls.abi.messages import LINUX_MESSAGES
from umktls.cli.control import Host, find_hosts
from umktls.errors import UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.session import Direction, Session

TLS_TX, TLS_RX = 1, 2
SIOCINQ = 0x541B


@cache
def kernel() -> Host:
    """The host that runs this program: its parent."""
    (found,) = (host for host in find_hosts() if host.name == f"run-{os.getppid()}")
    return found


class CallsSocket(RealSocket):
    """See RealSocket."""

    @staticmethod
    def tls_stat() -> dict[str, int]:
        lines = (line.split() for line in kernel().sysctl({})["tls_stat"])
        return {name: int(value) for name, value in lines}

    @property
    def tx(self) -> Told:
        return Told(sequence=self._sequence(TLS_TX))

    @property
    def rx(self) -> Told:
        return Told(sequence=self._sequence(TLS_RX))

    def _sequence(self, name: int) -> int:
        info = CryptoInfo.unpack_untrusted(self.getsockopt(282, name, 40))
        return int.from_bytes(info.rec_seq)

    # TCP has it; has the kernel above it?

    def arrive(self, data: bytes) -> None:
        super().arrive(data)
        self._settle()

    def fin(self) -> None:
        super().fin()
        self._settle()

    def connection_lost(self, error: UmktlsError | None = None) -> None:
        if error is not None:
            raise NotAsked("another error than a reset")
        super().connection_lost()
        self._settle()

    def _settle(self) -> None:
        fcntl.ioctl(self._near, SIOCINQ, bytearray(4))


class CallsWorld(RealWorld):
    """A socket of the kernel that `umktls run` makes of this one."""

    interface = "linux"

    def __init__(self, personality: str) -> None:
        super().__init__(personality)
        self.personality = replace(self.personality, messages=LINUX_MESSAGES)
        self.abi = LINUX_MESSAGES

    def another(self) -> KtlsSocket:
        return CallsSocket()  # type: ignore[return-value]

    def linux_enable(self, direction: Direction, session: Session) -> None:
        if session.suite.cipher_type not in CRYPTO_INFO_LAYOUTS:
            raise NotAsked("a suite that Linux has no layout for")
        super().linux_enable(direction, session)


def no_model(*_: object) -> None:
    raise NotAsked("a second socket with the first one's counters")


def outcome(row: Row, personality: str, variant: Any) -> tuple[Answer, str]:
    """What came of it, and why."""
    assert row.check is not None
    try:
        row.check(CallsWorld(personality), *(() if variant is None else (variant,)))
    except NotAsked as error:
        return "model", str(error)
    except (Exception, pytest.fail.Exception):
        return "no", traceback.format_exc()
    finally:
        close_all()
    return "yes", ""


def main(personality: str, wanted: Sequence[str]) -> None:
    for module in LINUX_SOURCES:
        # For rows that need another socket.
        vars(module)["World"] = CallsWorld
    vars(linux_receiving)["KtlsSocket"] = no_model
    for row in ROWS:
        if answer(row, personality) == "-" or (wanted and key(row) not in wanted):
            continue
        for variant in row.variants or (None,):
            found, why = outcome(row, personality, variant)
            words = {"row": key(row), "variant": str(variant), "answer": found, "why": why}
            print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
