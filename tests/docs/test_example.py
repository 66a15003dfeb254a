"""The example of docs/writing-a-daemon.md: short, as good as the page says, and mounts work."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.cdaemon.handmade import ended_well, mounted
from tests.conftest import patience
from tests.system.live import needs_fuse, until
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.scenarios.runner import choose, run

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "mydaemon.py"


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 120


def test_what_the_page_shows_of_it_is_in_it() -> None:
    """The block about registering, but for the handler of CONNECT, which the example adds there."""
    page, code = (DOCS / "writing-a-daemon.md").read_text(), EXAMPLE.read_text()
    block = page.partition("```python\n")[2].partition("```")[0]
    for line in block.splitlines():
        assert line in code.replace('{**handlers, "CONNECT": connect}', "handlers")


async def test_it_passes_all_but_what_the_page_says(tmp_path: Path) -> None:
    command = (sys.executable, str(EXAMPLE), "{certdir}", "{ca}")
    with trio.fail_after(patience(50)):
        results = await run("client", command, choose("client"), tmp_path, 2.0)
    assert [result.scenario for result in results if result.verdict != "passed"] == ["revoked"]
    seen = {result.scenario: result.seen for result in results}
    assert seen["expired"].startswith("refused (certificate: ")
    assert seen["no-alpn"].startswith("refused (tls: ")


def test_what_the_page_says_to_type_works() -> None:
    """All at once; only the places are others."""
    needs_fuse()
    page = (DOCS / "writing-a-daemon.md").read_text()
    (block,) = [part for part in page.split("```") if "--no-daemon" in part]
    with Sandbox("typed") as box:
        layout.create(box.certs)
        server, _ = box.serve("--certs", str(box.certs))
        places = {
            "umktls mount localhost:/": f"umktls mount localhost:{server.facts['port']}:/",
            "/tmp/mnt": str(box.mountpoint),
            "/tmp/pki": str(box.certs),
            "/tmp/host": str(box.run / "host"),
        }
        for place, other in places.items():
            assert place in block
            block = block.replace(place, other)
        environment = box.environment()
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        typed = "\n".join(line[2:] for line in block.splitlines() if line.startswith("$ "))
        with subprocess.Popen(["bash", "-c", typed], env=environment, cwd=DOCS.parent) as shell:
            try:
                until(box.mounted, "the mount")
                (box.mountpoint / "file").write_text("hello")
                assert (box.export / "file").read_text() == "hello"
                box.unmount()
                assert shell.wait(20) == 0  # the daemon, which goes with its host
            finally:
                shell.kill()


@pytest.mark.long
def test_a_mount_works_with_it() -> None:
    needs_fuse()
    with ExitStack() as stack:
        box = stack.enter_context(Sandbox("example"))
        layout.create(box.certs)
        server, _ = box.serve("--certs", str(box.certs), "--mtls-required")
        command = [
            sys.executable,
            str(EXAMPLE),
            str(box.certs / "client"),
            str(box.certs / "ca.pem"),
        ]
        port = int(server.facts["port"])
        client, process = stack.enter_context(mounted(box, port, command, "-o", "mtls"))
        data = os.urandom(1 << 20)
        (box.mountpoint / "file").write_bytes(data)
        assert client.rekey() == 1
        assert (box.export / "file").read_bytes() == data
        assert (box.mountpoint / "file").read_bytes() == data
        box.unmount()
        ended_well(process)
