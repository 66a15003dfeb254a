"""`umktls demo`: the main job once, from the certificates to the clean end."""

from __future__ import annotations

from pathlib import Path

import click

from umktls.cli.capture_options import capture_options, say_what_is_secret, wanted_capture
from umktls.cli.options import personality_option

__all__ = ["demo"]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the mount up until Ctrl-C, and say how to look.")
@click.option(
    "--tree",
    "library",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="What to copy. [default: Python's library, and what is installed beside it]",
)
@click.option(
    "--watch", is_flag=True, help="Show it in a browser, by `umktls watch`; ends at Ctrl-C."
)
@personality_option("Whose kernel TLS both hosts emulate.")
@capture_options
def demo(
    keep: bool,
    library: Path | None,
    watch: bool,
    personality: str,
    capture: Path | None,
    secrets: bool,
    capture_size: str | None,
) -> None:
    """Do the main job once, on this machine alone, and clean up.

    \b
      1. make a throw-away CA and certificates
      2. boot a server host that exports a directory, with its rpctlssd
      3. boot a client host with its rpctlscd, and mount with mutual TLS
      4. copy Python's library through the mount and back, compare SHA-256
      5. show the life of the first connection, and the counters
      6. unmount, stop, and check that nothing is left

    The last line is `demo: OK` and the exit code 0, or the reason why not.

    \b
    Examples:
      umktls demo
      umktls demo --keep
      umktls demo --capture demo.pcapng --secrets     (demo-client.pcapng and demo-server.pcapng)
    """
    from umktls.cli.demo_run import run_demo

    wanted = wanted_capture(capture, secrets, capture_size)
    say_what_is_secret(wanted)
    run_demo(library, keep or watch, personality, wanted, watch)
