"""A real Linux's NFS client before `umktls serve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.realkernel.guest import Guest, GuestError
from tests.realkernel.inside.work import hashes, tree
from tests.realkernel.pki import Pki
from tests.realkernel.serving import EXPORTS, LEVELS, Served, served

AT = "/mnt/a"
ENOUGH = {"any": LEVELS, "tls": ("tls", "mtls"), "mtls": ("mtls",)}


@pytest.fixture(scope="module")
def server(pki: Pki) -> Iterator[Served]:
    with served(pki) as one:
        yield one


@pytest.fixture
def agent(guest: Guest, pki: Pki) -> None:
    guest.call("start_agent", **pki.agent(pki.guest))


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("level", LEVELS)
def test_levels_and_exports(guest: Guest, server: Served, level: str, export: str) -> None:
    """As exports(5) and xprtsec say, and the kernel's log says why where it does not go."""
    options = server.mount_options(level)
    (server.path(export) / "here").write_text(export)
    if level in ENOUGH[export]:
        guest.call("mount", source=server.source(export), at=AT, options=options)
        assert guest.call("read", path=f"{AT}/here") == export
        shown = f"xprtsec={level}" in guest.call("read", path="/proc/self/mounts")
        assert shown == (level != "none")
        guest.call("unmount", at=AT)
        return
    with pytest.raises(GuestError, match="PermissionError"):
        guest.call("mount", source=server.source(export), at=AT, options=options)
    assert any("requires stronger authentication" in line for line in guest.call("kernel_log"))


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("level", LEVELS)
def test_files_both_ways(guest: Guest, server: Served, level: str) -> None:
    """Read there what was made here, copied there, compared here."""
    export = "any" if level == "none" else level
    top = server.path(export) / level
    made = tree(str(top / "made"))
    guest.call("mount", source=server.source(export), at=AT, options=server.mount_options(level))
    assert guest.call("hashes", top=f"{AT}/{level}/made", deadline=300) == made
    guest.call("copy", source=f"{AT}/{level}/made", target="/run/tree", deadline=300)
    guest.call("copy", source="/run/tree", target=f"{AT}/{level}/copied", deadline=300)
    guest.call("unmount", at=AT)
    assert hashes(str(top / "copied")) == made
