"""What a daemon may ask of a socket's detours, by its engines, and by what it has asked before."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from umktls.abi import freebsd, linux, rpctls
from umktls.abi.personality import PERSONALITIES
from umktls.errors import UmktlsError
from umktls.kernel.ground.events import Trace
from umktls.kernel.sockets.detours import Detours
from umktls.ktls.engines import Route

LEFTOVER = (rpctls.SOL_UMKTLS, rpctls.UMKTLS_LEFTOVER)
TX_ENABLE = (freebsd.IPPROTO_TCP, freebsd.TCP_TXTLS_ENABLE)
RX_MODE = (freebsd.IPPROTO_TCP, freebsd.TCP_RXTLS_MODE)
LINUX_TX = (linux.SOL_TLS, linux.TLS_TX)
NODELAY = (freebsd.IPPROTO_TCP, 1)


def detours(
    tx: Route, rx: Route, *, bounce: bool = False, mode: int = 0, personality: str = "umktls"
) -> Detours:
    sock: Any = SimpleNamespace(
        state=SimpleNamespace(mode=lambda direction: mode, personality=PERSONALITIES[personality]),
        trace=Trace("h", "client"),
        name="c1",
        intake=None,
    )
    means: Any = SimpleNamespace(
        engines={"tx": SimpleNamespace(route=tx), "rx": SimpleNamespace(route=rx)},
        bounce=bounce,
        spawn=lambda task: None,
    )
    return Detours(sock, means)


def refusal(call: Any, *arguments: Any) -> int:
    """The error's number; 0 for none."""
    try:
        call(*arguments)
    except UmktlsError as error:
        return error.errno
    return 0


@pytest.mark.parametrize(
    ("tx", "rx", "option", "number"),
    [
        (Route.HOST, Route.HOST, LEFTOVER, errno.EOPNOTSUPP),
        (Route.HOST, Route.RECORDS, LEFTOVER, 0),
        (Route.HOST, Route.HOST, TX_ENABLE, 0),
        (Route.CLEAR, Route.RECORDS, TX_ENABLE, errno.ENOPROTOOPT),
        (Route.CLEAR, Route.RECORDS, LINUX_TX, errno.ENOPROTOOPT),
        (Route.CLEAR, Route.RECORDS, RX_MODE, 0),
        (Route.RECORDS, Route.CLEAR, RX_MODE, errno.ENOPROTOOPT),
        (Route.CLEAR, Route.CLEAR, NODELAY, 0),
        (Route.RECORDS, Route.RECORDS, TX_ENABLE, 0),
    ],
)
def test_options_that_an_engine_does_not_have(
    tx: Route, rx: Route, option: tuple[int, int], number: int
) -> None:
    assert refusal(detours(tx, rx).refuse_option, *option) == number


@pytest.mark.parametrize(
    ("tx", "rx", "personality", "name", "number"),
    [
        (Route.CLEAR, Route.CLEAR, "linux", b"tls", errno.ENOENT),
        (Route.CLEAR, Route.CLEAR, "linux", b"", 0),
        (Route.CLEAR, Route.RECORDS, "linux", b"tls", 0),
        (Route.CLEAR, Route.CLEAR, "freebsd14", b"tls", 0),
    ],
)
def test_a_kernel_without_tls_knows_no_such_protocol(
    tx: Route, rx: Route, personality: str, name: bytes, number: int
) -> None:
    assert refusal(detours(tx, rx, personality=personality).refuse_ulp, name) == number


@pytest.mark.parametrize("direction", ["tx", "rx"])
async def test_a_direction_is_bounced_once(direction: Any) -> None:
    made = detours(Route.BOUNCE, Route.BOUNCE)
    far = made.bounce(direction)
    assert refusal(made.bounce, direction) == errno.EALREADY
    assert made.route(direction) is Route.BOUNCE
    made.close()
    with far:
        assert far.recv(1) == b""


@pytest.mark.parametrize(
    ("route", "bounce", "mode", "number"),
    [
        (Route.RECORDS, False, freebsd.TCP_TLS_MODE_NONE, errno.EPERM),
        (Route.RECORDS, True, freebsd.TCP_TLS_MODE_SW, errno.EALREADY),
        (Route.CLEAR, True, freebsd.TCP_TLS_MODE_NONE, errno.EPERM),
    ],
)
def test_what_is_not_bounced(route: Route, bounce: bool, mode: int, number: int) -> None:
    """Nobody asked for it; its keys are set; it is to go in clear."""
    made = detours(route, route, bounce=bounce, mode=mode)
    for direction in ("tx", "rx"):
        assert refusal(made.bounce, direction) == number
