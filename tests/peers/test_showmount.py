"""`umktls showmount` says of nfs-ganesha what showmount(8) says of it."""

from __future__ import annotations

import subprocess

import pytest

from tests.peers.ganesha import Ganesha
from tests.peers.namespace import needs
from umktls.kernel.host.commands import program_path


@pytest.mark.parametrize("option", ["--exports", "--all", "--directories", "--no-headers"])
def test_as_the_real_one(ganesha: Ganesha, option: str) -> None:
    needs("showmount")
    said = [
        subprocess.run(
            ganesha.network(*program, option, "127.0.0.1"),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for program in ((program_path("umktls"), "showmount"), ("showmount",))
    ]
    ours, real = (sorted(line.split() for line in text.splitlines()) for text in said)
    assert ours == real
