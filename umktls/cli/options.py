"""Options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from umktls.abi.personality import DEFAULT_PERSONALITY, PERSONALITIES

__all__ = [
    "DIRECTORY",
    "FILE",
    "MTLS_REQUIRED",
    "STEP_TIMEOUT",
    "Seconds",
    "Decorator",
    "personality_option",
    "tls_required",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


class Seconds(click.FloatRange):
    """A time. `nan` is in no range, and yet not outside of it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


STEP_TIMEOUT: Decorator = click.option(
    "--timeout",
    type=Seconds(min=0.1, max=600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For each step.",
)
MTLS_REQUIRED: Decorator = click.option(
    "--mtls-required",
    "-tlscert",
    "level",
    flag_value="mtls",
    help="And those that show no certificate.",
)


def tls_required(text: str) -> Decorator:
    """The lowest level of security that a server asks for; `text` is the help."""
    return click.option("--tls-required", "-tls", "level", flag_value="tls", help=text)


def personality_option(text: str) -> Decorator:
    """Whose kernel is emulated; `text` is the help."""
    return click.option(
        "--personality",
        type=click.Choice(tuple(PERSONALITIES)),
        default=DEFAULT_PERSONALITY.name,
        show_default=True,
        help=text,
    )
