"""The pytest plugin: see the package. What fixtures need is imported when they are asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from umktls.certs.kinds import Wallet
    from umktls.kernel.host.host import Host
    from umktls.kernel.krpc.server import Listening
    from umktls.testing.hosts import Pair
    from umktls.testing.joined import Joined


@pytest.fixture(scope="session")
def umktls_wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    """Certificates of every kind, good and bad; each is made when it is first asked for."""
    from umktls.certs.kinds import Wallet

    return Wallet(tmp_path_factory.mktemp("umktls-wallet"))


@pytest.fixture
def umktls_rundir() -> Iterator[Path]:
    """A directory with a short path: that of a socket has 107 bytes at most."""
    path = Path(tempfile.mkdtemp(prefix="umktls-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def umktls_daemons() -> Mapping[str, Sequence[str]]:
    """The commands of daemons that are not ours, by role ("client", "server"): none, unless a
    conftest.py or a test file has a fixture of this name."""
    return {}


@pytest.fixture
def umktls_server(
    umktls_rundir: Path, umktls_wallet: Wallet, umktls_daemons: Mapping[str, Sequence[str]]
) -> Callable[..., AbstractAsyncContextManager[Listening]]:
    """Boots a server host with its daemon and the service of `umktls.testing.echo`; arguments are
    those of `ServerConfig`."""
    from umktls.testing.hosts import serving

    daemon = umktls_daemons.get("server")
    return partial(serving, umktls_rundir / "s", daemon, certs=umktls_wallet.path)


@pytest.fixture
def umktls_client(
    umktls_rundir: Path, umktls_wallet: Wallet, umktls_daemons: Mapping[str, Sequence[str]]
) -> Callable[..., AbstractAsyncContextManager[Host]]:
    """Boots a client host with its daemon, for the server at a port; other arguments are those of
    `MountConfig`."""
    from umktls.testing.hosts import mount_config, mounting

    def boot(port: int, **changes: Any) -> AbstractAsyncContextManager[Host]:
        settings = {"certs": umktls_wallet.path, **changes}
        config = mount_config(port, umktls_rundir / "c", **settings)
        return mounting(config, umktls_daemons.get("client"))

    return boot


@pytest.fixture
def umktls_pair(
    umktls_rundir: Path, umktls_wallet: Wallet, umktls_daemons: Mapping[str, Sequence[str]]
) -> Callable[..., AbstractAsyncContextManager[Pair]]:
    """Boots both hosts with their daemons, and RPC between them. Arguments: `client` and `server`,
    what is to be changed in their configurations."""
    from umktls.testing.hosts import pair

    def boot(
        client: dict[str, Any] | None = None, server: dict[str, Any] | None = None
    ) -> AbstractAsyncContextManager[Pair]:
        return pair(umktls_wallet.path, umktls_rundir, client or {}, server or {}, umktls_daemons)

    return boot


@pytest.fixture
def umktls_joined(umktls_rundir: Path) -> Callable[..., AbstractAsyncContextManager[Joined]]:
    """Boots both hosts in memory; arguments are those of `umktls.testing.joined.joined`."""
    from umktls.testing.joined import joined

    return partial(joined, umktls_rundir)
