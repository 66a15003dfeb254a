"""What somebody hears who listens on this machine's loopback interface, through which all goes that
the emulated machine says and is told."""

from __future__ import annotations

from pathlib import Path

from tests.system.test_capture import Capture

__all__ = ["MARKED", "MARKER", "PROBE", "SIZE", "TEXT", "assert_unseen", "calls", "clear_calls_of"]

MARKER = "the marker 5b0d77e1, which nobody may see; "
TEXT = MARKER * 2000
SIZE = len(TEXT)
MARKED = "name-of-the-marker"
"""A file's name; TEXT is what stands in it."""
PROBE = ["0", "7,0"]
"""NULL with AUTH_TLS, and its verifier."""


def calls(packets: Path, port: int) -> list[list[str]]:
    """Of each call in clear its program, procedure, and the flavors of credential and verifier."""
    names = ("rpc.program", "rpc.procedure", "rpc.auth.flavor")
    capture = Capture(packets, packets, port, b"")
    return capture.fields("rpc.msgtyp==0", *names, protocol="rpc")


def clear_calls_of(program: int, said: list[list[str]]) -> list[list[str]]:
    """Those of one program that are no probe for TLS, without its number."""
    found = [call[1:] for call in said if call[0] == str(program)]
    return [call for call in found if call != PROBE]


def assert_unseen(packets: Path, least: int = SIZE) -> None:
    """The text and the name have passed, in `least` bytes, and nobody has seen them."""
    data = packets.read_bytes()
    assert len(data) > least
    assert MARKER[:16].encode() not in data
    assert MARKED.encode() not in data
