"""A real Linux's NFS server, knfsd, mounted by `umktls mount`."""

from __future__ import annotations

import pytest

from tests.realkernel.guest import Guest
from tests.realkernel.inside.work import hashes, tree
from tests.realkernel.knfsd import EXPORTS, TOP, mount
from tests.realkernel.pki import Pki
from tests.realkernel.serving import LEVELS
from umktls.cli.sandbox import Sandbox
from umktls.errors import WorldError


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("level", LEVELS)
def test_levels_and_exports(guest: Guest, box: Sandbox, pki: Pki, level: str, export: str) -> None:
    """As exports(5) has it; an export without TLS lets nobody in who has it."""
    guest.call("write", path=f"{TOP}/{export}/here", text=export)
    if level in EXPORTS[export]:
        mount(box, pki, export, level)
        assert (box.mountpoint / "here").read_text() == export
        return
    with pytest.raises(WorldError, match="ACCES"):
        mount(box, pki, export, level)


@pytest.mark.parametrize("level", LEVELS)
def test_files_both_ways(guest: Guest, box: Sandbox, pki: Pki, level: str) -> None:
    """Written from here, read there, and read here anew."""
    top = f"{TOP}/{level}/tree"
    mount(box, pki, level, level)
    made = tree(str(box.mountpoint / "tree"))
    assert guest.call("hashes", top=top, deadline=300) == made
    box.unmount()
    mount(box, pki, level, level)
    assert hashes(str(box.mountpoint / "tree")) == made
    guest.call("remove", path=top)
