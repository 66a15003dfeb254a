"""What `umktls demo` does: the main job once, from the certificates to the clean end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from umktls.certs import layout
from umktls.cli import tree
from umktls.cli.away import amount
from umktls.cli.control import Host
from umktls.cli.following import past
from umktls.cli.progress import progress
from umktls.cli.sandbox import Sandbox
from umktls.cli.stat_view import host_view
from umktls.cli.story import first_connection, life, missing
from umktls.cli.trace import line
from umktls.errors import UmktlsError, WorldError
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.host.commands import program_path
from umktls.printable import printable

__all__ = ["LEAVE_OUT", "run_demo", "usual_trees"]

# Programs that run meanwhile may write these two, and what pip has installed is not Python's own.
LEAVE_OUT = ("__pycache__", "site-packages", "dist-packages")
# Debian's library of Python alone has less than this; then what is installed here is copied too.
ENOUGH = 2000
# The ways to end it early.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(
    library: Path | None,
    keep: bool,
    personality: str,
    capture: CaptureConfig | None = None,
    watch: bool = False,
) -> None:
    """All six steps, and the last line. Raises WorldError."""
    console = Console(highlight=False, soft_wrap=True)
    with signals_interrupt():
        try:
            run(console, library, keep, personality, capture, watch)
        except KeyboardInterrupt:
            raise WorldError("the demo was interrupted; everything is stopped") from None
        except (UmktlsError, OSError) as error:
            raise WorldError(f"the demo failed: {error}") from error
    console.print("demo: OK", style="bold green")


def run(
    console: Console,
    library: Path | None,
    keep: bool,
    personality: str,
    capture: CaptureConfig | None,
    watch: bool,
) -> None:
    """All six steps."""
    with Sandbox("demo") as sandbox, watched(sandbox) if watch else nullcontext():
        try:
            steps(console, sandbox, library, keep, personality, capture)
        except (UmktlsError, OSError):
            for words in sandbox.last_words():
                click.echo(printable(words), err=True)
            raise


def steps(
    console: Console,
    sandbox: Sandbox,
    library: Path | None,
    keep: bool,
    personality: str,
    capture: CaptureConfig | None,
) -> None:
    say(console, 1, f"a throw-away CA and certificates in {sandbox.certs}")
    layout.create(sandbox.certs)
    server = start_server(console, sandbox, personality, capturing(capture, "server"))
    client = start_client(console, sandbox, server, personality, capturing(capture, "client"))
    copy_and_compare(console, sandbox, [library] if library else usual_trees())
    tell_life(console, [client, server])
    if keep:
        wait_for_interrupt(console, sandbox)
    say(console, 6, "unmount, stop everything, look for what is left")
    sandbox.unmount()


@contextmanager
def watched(sandbox: Sandbox) -> Iterator[None]:
    """`umktls watch` beside the block, which shows its address and opens a browser. The keys are of
    certificates that are gone afterwards, and may be seen."""
    environment = sandbox.environment()
    os.environ["UMKTLS_SECRETS"] = "1"
    process = subprocess.Popen(
        [program_path("umktls"), "watch", "--open", "--secrets"], env=environment
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def say(console: Console, number: int, text: str) -> None:
    console.print(f"[bold]{number}/6[/bold] {text}")


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def capturing(capture: CaptureConfig | None, role: str) -> list[str]:
    """Options for one of the two hosts, each of which has a file of its own."""
    if capture is None:
        return []
    words = ["--capture", str(capture.called(role).path), "--capture-size", str(capture.size)]
    return [*words, "--secrets"] if capture.secrets else words


def start_server(
    console: Console, sandbox: Sandbox, personality: str, capture: Sequence[str]
) -> Host:
    say(console, 2, f"a server host that exports {sandbox.export} with --no-root-squash")
    server, ready = sandbox.serve(
        *("--certs", str(sandbox.certs), "--mtls-required", "--personality", personality),
        *capture,
    )
    console.print(f"  {server.name}: {ready}")
    return server


def start_client(
    console: Console, sandbox: Sandbox, server: Host, personality: str, capture: Sequence[str]
) -> Host:
    say(console, 3, "a client host that mounts it with mutual TLS")
    source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
    client = sandbox.mount(
        *(source, "--certs", str(sandbox.certs), "-o", f"mtls,personality={personality}"),
        *capture,
    )
    console.print(f"  {client.name}: {source} is mounted at {sandbox.mountpoint}")
    return client


def usual_trees() -> list[Path]:
    """Trees that are on every machine, thousands of files together."""
    chosen: list[Path] = []
    files = 0
    for name in ("stdlib", "purelib"):
        if files < ENOUGH:
            chosen.append(Path(sysconfig.get_path(name)))
            files += len(tree.survey(chosen[-1], LEAVE_OUT))
    return chosen


def copy_and_compare(console: Console, sandbox: Sandbox, tops: list[Path]) -> None:
    """Step 4. Raises WorldError when one file is not the same everywhere."""
    for name, top in zip(("tree", "more"), tops, strict=False):
        copy_and_compare_one(console, sandbox, top, name)


def copy_and_compare_one(console: Console, sandbox: Sandbox, top: Path, name: str) -> None:
    """One tree, there under `name` and back again."""
    entries = tree.survey(top, LEAVE_OUT)
    total = sum(entry.size for entry in entries)
    say(console, 4, f"copy {top}: {len(entries)} files and directories, {amount(total)}")
    there, back = sandbox.mountpoint / name, sandbox.top / "back" / name
    back.parent.mkdir(exist_ok=True)
    for what, source, target in (("there", top, there), ("back", there, back)):
        began = time.monotonic()
        with progress(console, what, total) as advance:
            tree.copy(entries, source, target, advance)
        seconds = time.monotonic() - began
        files, size = len(entries) / seconds, amount(int(total / seconds))
        console.print(f"  {what}: {seconds:.1f} s, {files:.0f} files/s, {size}/s")
    with progress(console, "compare", 3 * total) as advance:
        expected = tree.digests(entries, top, advance)
        for side, copy in (("server", sandbox.export / name), ("copy that came back", back)):
            wrong = tree.differences(expected, tree.digests(entries, copy, advance))
            if wrong:
                raise WorldError(
                    f"{len(wrong)} files differ on the {side}, the first is {wrong[0]}"
                )
    console.print(f"  SHA-256 of all {len(entries)} agree: original, server, and what came back")


def tell_life(console: Console, hosts: list[Host]) -> None:
    """Step 5. Raises WorldError when the trace or the counters do not show what they must."""
    say(console, 5, "the life of the first connection, as both hosts saw it")
    events = past(hosts)
    story = life(events, first_connection(events))
    for event in story:
        console.print("  " + line(event, colour=False), markup=False, style=side_style(event))
    lacking = missing(story)
    if lacking:
        raise WorldError(f"the hosts' traces lack {', '.join(lacking)}")
    for host in hosts:
        state = host.stat()
        console.print(host_view(state))
        check_counters(state)


def side_style(event: dict[str, Any]) -> str:
    return "cyan" if event.get("side") == "client" else "yellow"


def check_counters(state: dict[str, Any]) -> None:
    """That RPCs went through TLS records, in both directions."""
    totals = state["totals"]
    for counter in ("rpcs", "records_tx", "records_rx", "bytes_tx", "bytes_rx", "handshakes"):
        if not totals.get(counter):
            raise WorldError(f"host {state['host']['name']} counted no {counter}")


def wait_for_interrupt(console: Console, sandbox: Sandbox) -> None:
    """Say how to look at what runs, and wait for Ctrl-C.

    Signals are held back from before the first word on: whoever has read that the mount stays up
    may interrupt at once, and that is the end that was asked for.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        say_how_to_look(console, sandbox)
        signal.sigwait(INTERRUPTS)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    console.print()


def say_how_to_look(console: Console, sandbox: Sandbox) -> None:
    umktls = shlex.quote(program_path("umktls"))
    console.print(
        f"""
  The mount stays up until Ctrl-C. In another terminal:

    export UMKTLS_RUNDIR={sandbox.run}
    ls {sandbox.mountpoint}/tree
    {umktls} stat
    {umktls} trace
""",
        markup=False,
    )
