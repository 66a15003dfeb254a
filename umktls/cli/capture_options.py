"""Options of the commands whose hosts can be captured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from umktls.cli.options import FILE, Decorator

# Imported where it is used: help is told at once.
if TYPE_CHECKING:
    from umktls.kernel.captures.config import CaptureConfig

__all__ = ["CAPTURE_OPTIONS", "capture_options", "say_what_is_secret", "wanted_capture"]

CAPTURE_OPTIONS: list[Decorator] = [
    click.option(
        "--capture",
        type=FILE,
        help="Write what passes the host's sockets, and what the host does, into this file, for "
        "Wireshark (docs/captures.md). It is overwritten.",
    ),
    click.option(
        "--secrets",
        is_flag=True,
        help="Have the TLS secrets and RPC in clear in the capture, too.",
    ),
    click.option(
        "--capture-size",
        metavar="SIZE",
        help="Begin the capture's file anew when it is so large (64M, 2G), and keep the one before."
        "  [default: 256M]",
    ),
]


def capture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds all of them."""
    for option in reversed(CAPTURE_OPTIONS):
        command = option(command)
    return command


def wanted_capture(path: Path | None, secrets: bool, size: str | None) -> CaptureConfig | None:
    """What they say. Raises `CallerError`."""
    from umktls.kernel.captures.config import CaptureConfig

    return CaptureConfig.of(path, secrets, size)


def say_what_is_secret(capture: CaptureConfig | None) -> None:
    """On stderr, in red, what whoever asks for secrets has to know."""
    from umktls.cli.engines import say_loudly

    if capture is not None and capture.warning is not None:
        say_loudly(capture.warning)
