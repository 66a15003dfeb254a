"""What can be turned on a host, and what cannot; without daemons and peers."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.kernel.kernelsocket import kernel_socket
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.host.knobs import REXMIT_KNOB, show, turn, tx_mode
from umktls.kernel.sockets.ktls_socket import KernelSocket
from umktls.ktls.session.counters import Counters, Sysctls

MAXLEN, PCT = "kern.ipc.tls.maxlen", "kern.ipc.tls.ifnet_max_rexmit_pct"


@dataclass
class Host:
    """As much of a host as is turned."""

    personality: Personality = DEFAULT_PERSONALITY
    sysctls: Sysctls = field(default_factory=Sysctls)
    counters: Counters = field(default_factory=Counters)
    rexmit_pct: float | None = None
    socks: list[KernelSocket] = field(default_factory=list)

    def established(self, connection: str | None) -> list[KernelSocket]:
        return self.socks


@pytest.mark.parametrize(
    ("name", "value"), [(PCT, -1), (PCT, 0), (PCT, (1 << 31) - 1), (MAXLEN, 1), (REXMIT_KNOB, -1)]
)
def test_what_just_goes(name: str, value: int) -> None:
    host = Host()
    turn(host, {name: value})
    assert f"{name}: {value}" in show(host)["sysctl"]


@pytest.mark.parametrize(
    ("name", "value", "reason", "number"),
    [
        (PCT, -2, "takes a whole number, not -2", errno.EINVAL),
        (PCT, 1 << 31, "takes a whole number, not 2147483648", errno.EINVAL),
        (PCT, True, "takes a whole number, not True", errno.EINVAL),
        (PCT, 1.0, "takes a whole number, not 1.0", errno.EINVAL),
        (PCT, None, "takes a whole number, not None", errno.EINVAL),
        (MAXLEN, 0, "cannot be less than 1", errno.EINVAL),
        ("kern.nix", 1, "no sysctl 'kern.nix' can be set; there are: ", errno.ENOENT),
    ],
)
def test_what_does_not_go(name: str, value: Any, reason: str, number: int) -> None:
    """And nothing else is turned then."""
    host = Host()
    with pytest.raises(CallerError, match=reason) as caught:
        turn(host, {REXMIT_KNOB: 7, name: value})
    assert caught.value.errno == number
    assert host.rexmit_pct is None


async def test_a_mode_that_there_is_not() -> None:
    with pytest.raises(CallerError, match="no mode 'fast'; there are: "):
        await tx_mode(Host(), "fast", None)


async def test_a_mode_that_a_connection_refuses() -> None:
    """A card that does TCP too cannot be chosen; it is said which connection has refused."""
    near, far = socket.socketpair()
    with near, far, pytest.raises(UmktlsError, match=r"^s1: ") as caught:
        await tx_mode(Host(socks=[kernel_socket(near)]), "toe", None)
    assert caught.value.errno == errno.EINVAL
