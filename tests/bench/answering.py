"""A backend that does nothing but answer, in a process: `python -m tests.bench.answering FD`.

Each call is answered by as many bytes as its arguments' first word says. One thread for each
connection; it ends with its standard input.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from umktls.rpc.message import NULL_AUTH, AcceptStat, encode_accepted
from umktls.rpc.record import mark

BODY = memoryview(bytes(4 << 20))
# Where a call with AUTH_NONE has its arguments.
ARGUMENTS = 40


def serve(sock: socket.socket) -> None:
    """One connection."""
    with sock, sock.makefile("rb", 1 << 20) as stream:
        while len(head := stream.read(4)) == 4:
            call = stream.read(int.from_bytes(head) & 0x7FFFFFFF)
            wanted = int.from_bytes(call[ARGUMENTS : ARGUMENTS + 4])
            reply = encode_accepted(int.from_bytes(call[:4]), NULL_AUTH, AcceptStat.SUCCESS)
            sock.sendall(mark(len(reply) + wanted) + reply)
            if wanted:
                sock.sendall(BODY[:wanted])


def main(descriptor: str) -> None:
    """The program."""
    listener = socket.socket(fileno=int(descriptor))

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    os.read(0, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
