"""Records docs/demo.html, a mount from its beginning to its end, and takes docs/watch.png of it:
`python -m tests.docs.recording` (see `make docs`)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from umktls.certs import layout
from umktls.cli.control import Host
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

__all__ = ["PAGE", "PICTURE", "record"]

PAGE = Path(__file__).parents[2] / "docs" / "demo.html"
PICTURE = PAGE.with_name("watch.png")
SECONDS = 60.0


def until(there: Callable[[], bool], what: str) -> None:
    """Wait until something is so; AssertionError if it is not in time."""
    end = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < end, f"{what}: not within {SECONDS:g} s"
        os.sched_yield()


def events(host: Host, name: str) -> int:
    """How often that has happened in a host."""
    return sum(event["event"] == name for event in host.trace())


@contextmanager
def recorder(sandbox: Sandbox, path: Path, log: Path) -> Iterator[None]:
    """`umktls watch --record` while the block runs."""
    command = [program_path("umktls"), "watch", "--secrets", "--record", str(path)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=sandbox.environment(), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            until(lambda: "Recording" in log.read_text(), "the recorder")
            yield
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)
            assert process.returncode == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def life(sandbox: Sandbox) -> None:
    """A mount: files, a KeyUpdate from each side, a daemon that dies, the end."""
    server, _ = sandbox.serve("--certs", str(sandbox.certs), "--mtls-required")
    source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
    client = sandbox.mount(source, "--certs", str(sandbox.certs), "-o", "mtls")
    top = sandbox.mountpoint
    (top / "hello.txt").write_text("Hello, world: this line was sealed by the kernel.\n")
    (top / "folder").mkdir()
    (top / "folder" / "many.bin").write_bytes(bytes(range(256)) * 160)
    assert len(list(top.iterdir())) == 2
    assert client.rekey() == 1
    assert (sandbox.export / "hello.txt").read_text() == (top / "hello.txt").read_text()
    assert server.rekey() == 1
    (top / "folder" / "after.txt").write_text("Under new keys in both directions.\n")
    (daemon,) = client.stat()["daemons"]
    os.kill(daemon["pid"], signal.SIGKILL)
    until(lambda: events(client, "orphaned") > 0, "the end of the daemon")
    (top / "folder" / "orphan.txt").write_text("RPC goes on without a daemon.\n")
    until(lambda: events(client, "adopted") > 0, "another daemon")
    (top / "hello.txt").unlink()
    sandbox.unmount()


def record(path: Path) -> None:
    """The recording, at `path`. AssertionError where something did not go as told."""
    # The keys are of a CA and a session that are gone by then.
    with mock.patch.dict(os.environ, UMKTLS_SECRETS="1"), Sandbox("docs") as sandbox:
        layout.create(sandbox.certs)
        with recorder(sandbox, path, sandbox.top / "recorder.log"):
            life(sandbox)
            sandbox.stop_server()


def picture(page: Path, path: Path) -> None:
    """A picture of the page at the first WRITE, while its record is on its way."""
    from tests.watch.browser import browser, opened

    with browser() as running, opened(running, page.as_uri(), color_scheme="light") as shown:
        shown.locator("input[type=search]").fill("write sent")
        shown.locator(".event").first.click()
        shown.locator("input[type=search]").fill("")
        shown.locator("h1").click()
        shown.keyboard.press("j")
        shown.wait_for_selector(".record")
        shown.keyboard.press("k")
        shown.keyboard.press("j")
        shown.wait_for_function(
            "() => document.querySelector('.token.type23')?.getAnimations()[0]?.currentTime > 400"
        )
        shown.screenshot(path=path)


if __name__ == "__main__":
    record(PAGE)
    picture(PAGE, PICTURE)
