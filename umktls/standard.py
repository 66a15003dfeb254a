"""Standard input, output and error of a program: that they are there, and what becomes of what they
do not take."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["drop", "have_all_three", "printing"]

# What write(2) says of a disk that standard output goes to.
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def have_all_three() -> None:
    """Where whoever has started this program has closed one, it is /dev/null from now on. The next
    file or socket would get its number, and what libraries print would go there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115


def drop(number: int) -> None:
    """Whoever has read the descriptor has gone, or its disk is full: it is /dev/null from now on.
    Python would try again, at its end, what was not taken, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def printing(name: str) -> Iterator[None]:
    """The block is a program: what standard output does not take is one line, and exit code 1."""
    have_all_three()
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITTEN or error.filename is not None:
            raise
        drop(1)
        print(f"{name}: cannot write what is to be printed: {error.strerror}", file=sys.stderr)
        sys.exit(1)
