"""Names are bytes: in exports, mount points, certificates' and run directories, JSON and messages.

Everything lies below a directory whose name is neither ASCII nor UTF-8, nor good for a shell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KERNEL_LACKS, patience
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.printable import printable

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason=f"{KERNEL_LACKS} FUSE")

ODD = b"\xc3\xa4\xff o'q,x\\"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    base = tmp_path / os.fsdecode(ODD)
    base.mkdir()
    with Sandbox("t", base) as one:
        layout.create(one.certs)
        (one.export / "file").write_text("hello")
        (one.export / "below").mkdir()
        (one.export / "below" / "deep").write_text("deep")
        (one.export / "link").symlink_to("below")
        yield one


def umktls(box: Sandbox, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    programs = str(Path(sys.executable).parent)
    return subprocess.run(
        ["umktls", *arguments],
        env=box.environment() | {"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=patience(30),
        check=False,
    )


def typed(box: Sandbox, ready: str) -> subprocess.CompletedProcess[bytes]:
    """The command that the server prints when it is ready, given to a shell."""
    command = ready.removeprefix("ready: ").partition("   (")[0]
    programs = str(Path(sys.executable).parent)
    return subprocess.run(
        ["sh", "-c", os.fsencode(command.replace("MOUNTPOINT", '"$MOUNTPOINT"'))],
        env=box.environment()
        | {"PATH": f"{programs}:{os.environ['PATH']}", "MOUNTPOINT": str(box.mountpoint)},
        capture_output=True,
        timeout=patience(30),
        check=False,
    )


@pytest.mark.long
def test_the_printed_command_mounts_whatever_the_names(box: Sandbox) -> None:
    """From a server on all addresses, too, and with an exports file."""
    quoted = os.fsencode(box.export).replace(b"\\", b"\\\\")
    (box.top / "exports").write_bytes(b'"%b" -maproot=root\n' % quoted)
    told = ("--certs", str(box.certs), "--exports", str(box.top / "exports"))
    _, ready = box.serve(*told, "--host", "::")
    done = typed(box, ready)
    assert done.returncode == 0, done.stderr
    assert (box.mountpoint / "file").read_text() == "hello"

    shown = umktls(box, "stat").stdout
    assert "ä\\xff o'q,x\\".encode() in shown
    states = json.loads(umktls(box, "stat", "--json").stdout)["hosts"]
    exports = [name for state in states for name in state["exports"]]
    assert os.fsencode(*exports) == os.fsencode(box.export)
    (mountpoint,) = (state["mount"]["mountpoint"] for state in states if state["mount"])
    assert os.fsencode(mountpoint) == os.fsencode(box.mountpoint)
    with open("/proc/self/mounts", "rb") as mounts:
        assert any(b"\xc3\xa4\xff\\040o'q,x\\134" in line for line in mounts)
    story = umktls(box, "trace", "--past").stdout
    assert b"\\xff o'q,x\\" in story

    ended = umktls(box, "umount", box.mountpoint)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_messages_show_the_bytes(box: Sandbox) -> None:
    host, _ = box.serve("--certs", str(box.certs))
    nowhere = f"localhost:{host.facts['port']}:{box.top}/no"
    refused = umktls(box, "mount", nowhere, box.mountpoint, "--certs", box.certs)
    assert refused.returncode == 32
    assert b"Traceback" not in refused.stderr
    assert printable(nowhere).encode() in refused.stderr


def test_a_link_in_the_export_can_be_mounted(box: Sandbox) -> None:
    host, _ = box.serve("--certs", str(box.certs))
    source = f"localhost:{host.facts['port']}:{box.export}/link"
    box.mount(source, "--certs", str(box.certs))
    assert (box.mountpoint / "deep").read_text() == "deep"
