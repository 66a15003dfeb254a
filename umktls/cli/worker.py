"""The program that a worker of a server runs (umktls.kernel.team.team). Not for people to start."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import sys
from functools import partial
from typing import Any

from umktls.errors import UmktlsError
from umktls.kernel.ground.hostclock import run
from umktls.kernel.ground.refusals import first_text
from umktls.kernel.krpc.post import Inlet, Post
from umktls.limits import keep_memory_private, raise_descriptor_limit

__all__ = ["main"]


def main(target: str) -> int:
    """Do what `target` says, with what stdin says."""
    post: Post
    post, argument = pickle.load(sys.stdin.buffer)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    raise_descriptor_limit()
    keep_memory_private()
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    try:
        run(partial(work, function, post, argument))
    except (UmktlsError, OSError) as error:
        failed(post, error)
        return 1
    return 0


async def work(function: Any, post: Post, argument: Any) -> None:
    await function(Inlet(post), argument)


def failed(post: Post, error: UmktlsError | OSError) -> None:
    """Tell the supervisor, which prints a line about it: nobody reads a worker's own output."""
    import json

    message = {"failed": first_text(error), "errno": error.errno}
    with socket.socket(fileno=post.channel) as channel:
        channel.send(json.dumps(message).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
