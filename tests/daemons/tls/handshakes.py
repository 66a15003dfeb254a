"""A handshake between two endpoints, without a socket."""

from __future__ import annotations

from umktls_daemons.tls.tlsadapter import Endpoint


def shake_hands(client: Endpoint, server: Endpoint) -> None:
    finished = [False, False]
    while not all(finished):
        finished[0] = finished[0] or client.handshake()
        pass_on(client, server)
        finished[1] = finished[1] or server.handshake()
        pass_on(server, client)


def pass_on(source: Endpoint, target: Endpoint) -> None:
    if output := source.output():
        target.feed(output)
