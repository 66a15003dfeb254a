"""What handshakes cost without umktls: `python -m tests.bench.bare FD CERTS`, one process of N.

The least that a server for RPC-with-TLS can do with pyOpenSSL: accept on the listening socket FD,
answer the AUTH_TLS probe with fixed bytes, have OpenSSL shake hands on the blocking socket (TLS
1.3, client certificate verified, ALPN), and answer one NULL call with fixed bytes. One connection
after the other, and every one stays open. No call is parsed, no key leaves the library, and nothing
is written down anywhere.

Prints a line when it is ready, and ends when its standard input does.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
from pathlib import Path

from OpenSSL import SSL

from tests.bench.burst import CALL, PROBE
from tests.bench.rpcs import server_context
from umktls.rpc.message import NULL_AUTH, STARTTLS_VERIFIER, AcceptStat, OpaqueAuth, encode_accepted
from umktls.rpc.record import mark

__all__ = ["serve"]


def reply_to(call: bytes, verifier: OpaqueAuth) -> bytes:
    reply = encode_accepted(int.from_bytes(call[4:8], "big"), verifier, AcceptStat.SUCCESS)
    return bytes(mark(len(reply)) + reply)


STARTTLS = reply_to(PROBE, STARTTLS_VERIFIER)
ANSWER = reply_to(CALL, NULL_AUTH)


def serve(listener: socket.socket, context: SSL.Context) -> None:
    """Serve until the process ends. A client that does not do as it should ends it."""
    kept = []
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(len(PROBE), socket.MSG_WAITALL)
        sock.sendall(STARTTLS)
        tls = SSL.Connection(context, sock)
        tls.set_accept_state()
        tls.do_handshake()
        tls.recv(len(CALL))
        tls.send(ANSWER)
        kept.append(tls)


def main(descriptor: str, certs: str) -> None:
    """The program."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    context = server_context(Path(certs))
    listener = socket.socket(fileno=int(descriptor))
    threading.Thread(target=serve, args=(listener, context), daemon=True).start()
    print("ready", flush=True)
    os.read(0, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
