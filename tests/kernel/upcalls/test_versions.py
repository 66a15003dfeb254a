"""Which version of the upcall a kernel has, and who takes over from whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.kernel.clientworld import SECONDS, Clock, world
from umktls.abi import rpctls
from umktls.abi.freebsd import ERRNO
from umktls.kernel.owners.request import UpcallTimeout
from umktls.testing.played import Calls, Refused
from umktls.testing.standin import StandIn
from umktls.upcall import syscalls as wire


async def test_a_kernel_has_the_version_of_its_personality(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    old: Callable[[Calls], Awaitable[Any]] = lambda calls: calls.call(  # noqa: E731
        wire.RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSHUTDOWN, b"")
    )
    async with world(tmp_path, "freebsd15") as w:
        with pytest.raises(Refused) as refused:
            await old(w.calls)
        assert refused.value.errno == ERRNO["ENOSYS"]
        await w.daemon()
    async with world(tmp_path, "freebsd14") as w:
        await old(w.calls)
        with pytest.raises(Refused) as refused:
            await w.daemon()
        assert refused.value.errno == ERRNO["EAFNOSUPPORT"]
        with pytest.raises(Refused) as refused:
            await w.calls.call(wire.SocketCookieArgs(1))
        assert refused.value.errno == ERRNO["ENOSYS"]


async def test_freebsd_15_does_not_know_whether_anybody_listens(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path, "freebsd15") as w:
        assert w.host.offers_tls
        nobody = await w.connect()
        began = trio.current_time()
        await nobody.ended.wait()
        assert trio.current_time() - began == pytest.approx(SECONDS, abs=0.1)
    assert isinstance(nobody.error, UpcallTimeout)


async def test_a_client_daemon_of_version_1_takes_over(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with world(tmp_path) as w:
        await w.daemon()
        await w.daemon()
        assert [handle.version for handle in w.host.handles["rpctlscd"]] == [2, 2]
        await w.nursery.start(StandIn("client", w.host.rundir.path, version=1).run)
        assert [handle.version for handle in w.host.handles["rpctlscd"]] == [1]
        await w.daemon()
        assert [handle.version for handle in w.host.handles["rpctlscd"]] == [2]
