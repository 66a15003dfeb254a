"""The relay that gives TLS to clients which have none."""

from __future__ import annotations

import socket
import ssl
import threading

from tests.conftest import patience
from tests.daemons.harness import client_context, server_context
from tests.front.sealing import step


def test_tickets_do_not_stand_in_front_of_the_client() -> None:
    """They are all that has come from the server, which waits for the client's first word."""
    seconds = patience(20)
    near, far = socket.socketpair()
    client, plain = socket.socketpair()
    for end in (near, far, client, plain):
        end.settimeout(seconds)
    with client, plain:
        ended, server = shaking_hands(far)
        with client_context().wrap_socket(near, server_hostname="localhost") as tls:
            ended.join(seconds)
            with server[0] as serving:
                assert step(plain, tls)
                client.sendall(b"first")
                assert step(plain, tls)
                assert serving.recv(100) == b"first"
                serving.sendall(b"then")
                assert step(plain, tls)
                assert client.recv(100) == b"then"


def shaking_hands(sock: socket.socket) -> tuple[threading.Thread, list[ssl.SSLSocket]]:
    """A server's handshake, with the tickets behind it: who does it, and what it has made."""
    context, made = server_context(), list[ssl.SSLSocket]()
    thread = threading.Thread(
        target=lambda: made.append(context.wrap_socket(sock, server_side=True)), daemon=True
    )
    thread.start()
    return thread, made
