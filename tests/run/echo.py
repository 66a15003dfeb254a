"""An echo server and its clients in one process, with Python's `ssl` and kernel TLS: a program of
the tests, which knows nothing of umktls.

python3 echo.py WAY VERSION: WAY is how the server waits, a name of WAYS. Says "whole" and the
number of clients that have had back what they sent.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

CLIENTS = 4
SIZE = 200_000
ENABLE_KTLS = getattr(ssl, "OP_ENABLE_KTLS", 1 << 3)  # Python has the name since 3.12
WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


def context(kind: int, version: str) -> ssl.SSLContext:
    made = ssl.SSLContext(kind)
    made.options |= ENABLE_KTLS
    made.minimum_version = made.maximum_version = getattr(ssl.TLSVersion, version)
    return made


def client(address: tuple[str, int], version: str, whole: list[bool]) -> None:
    trusting = context(ssl.PROTOCOL_TLS_CLIENT, version)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with trusting.wrap_socket(socket.create_connection(address)) as sock:
        data = os.urandom(SIZE)
        whole.append(there_and_back(sock, data) == data)
        assert sock.getpeername() == address


def there_and_back(sock: ssl.SSLSocket, data: bytes) -> bytes:
    """What comes back while `data` is sent. In one thread: Python before 3.13 lets two use one
    object of OpenSSL's at once, which by a ticket that comes then can leave both waiting."""
    sock.setblocking(False)
    back = bytearray()
    while len(back) < SIZE:
        select.select([sock], [sock] if data else [], [])
        with suppress(*WANTS):
            while data:
                data = data[sock.send(data) :]
        with suppress(*WANTS):
            while piece := sock.recv(65536):
                back += piece
            return bytes(back)
    return bytes(back)


class Echo:
    """One connection that never blocks: `step` does what can be done. True: it is over."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.shaken = False
        self.waiting = b""

    def step(self) -> bool:
        try:
            if not self.shaken:
                self.sock.do_handshake()
                self.shaken = True
            while True:
                if self.waiting:
                    self.waiting = self.waiting[self.sock.send(self.waiting) :]
                    continue
                self.waiting = self.sock.recv(16384)
                if not self.waiting:
                    return True
        except WANTS:
            return False
        except (ssl.SSLError, ConnectionError):
            return True


def accept(server: socket.socket, serving: ssl.SSLContext, *, blocking: bool) -> Echo:
    sock, _ = server.accept()
    sock.setblocking(blocking)
    wrapped = serving.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    return Echo(wrapped)


def by_threads(server: socket.socket, serving: ssl.SSLContext) -> None:
    def work(echo: Echo) -> None:
        echo.step()
        echo.sock.close()

    threads = []
    for _ in range(CLIENTS):
        echo = accept(server, serving, blocking=True)
        threads.append(threading.Thread(target=work, args=(echo,)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def by_select(server: socket.socket, serving: ssl.SSLContext) -> None:
    echoes: dict[ssl.SSLSocket, Echo] = {}
    over = 0
    while over < CLIENTS:
        writing = [sock for sock, echo in echoes.items() if echo.waiting]
        ready = select.select([server, *echoes], writing, [])
        for sock in {*ready[0], *ready[1]}:
            if sock is server:
                echo = accept(server, serving, blocking=False)
                echoes[echo.sock] = echo
            elif sock in echoes and echoes[sock].step():
                del echoes[sock]
                sock.close()
                over += 1


def by_epoll(server: socket.socket, serving: ssl.SSLContext) -> None:
    """Registered once, before the handshake, for reading and writing."""
    with selectors.EpollSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        over = 0
        while over < CLIENTS:
            for key, _ in selector.select():
                if key.data is None:
                    echo = accept(server, serving, blocking=False)
                    both = selectors.EVENT_READ | selectors.EVENT_WRITE
                    selector.register(echo.sock, both, echo)
                elif key.data.step():
                    selector.unregister(key.fileobj)
                    key.data.sock.close()
                    over += 1


def by_edges(server: socket.socket, serving: ssl.SSLContext) -> None:
    """The same, edge-triggered, as nginx does it."""
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN)
        echoes: dict[int, Echo] = {}
        over = 0
        events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
        while over < CLIENTS:
            for number, _ in epoll.poll():
                if number == server.fileno():
                    echo = accept(server, serving, blocking=False)
                    echoes[echo.sock.fileno()] = echo
                    epoll.register(echo.sock, events)
                elif echoes[number].step():
                    echoes.pop(number).sock.close()
                    over += 1


def by_asyncio(server: socket.socket, serving: ssl.SSLContext) -> None:
    """With add_reader and add_writer: its own TLS never has a socket."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Queue[Echo] = asyncio.Queue()

        def step(echo: Echo) -> None:
            if echo.step():
                loop.remove_reader(echo.sock)
                loop.remove_writer(echo.sock)
                over.put_nowait(echo)
            elif echo.waiting:
                loop.add_writer(echo.sock, step, echo)
            else:
                loop.remove_writer(echo.sock)

        def come() -> None:
            echo = accept(server, serving, blocking=False)
            loop.add_reader(echo.sock, step, echo)

        loop.add_reader(server, come)
        for _ in range(CLIENTS):
            (await over.get()).sock.close()

    asyncio.run(serve())


WAYS: dict[str, Callable[[socket.socket, ssl.SSLContext], None]] = {
    "threads": by_threads,
    "select": by_select,
    "epoll": by_epoll,
    "edges": by_edges,
    "asyncio": by_asyncio,
}


def main(way: str, version: str) -> None:
    serving = context(ssl.PROTOCOL_TLS_SERVER, version)
    serving.load_cert_chain("cert.pem", "key.pem")
    whole: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        clients = [
            threading.Thread(target=client, args=(address, version, whole), daemon=True)
            for _ in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        WAYS[way](server, serving)
        for each in clients:
            each.join()
    print("whole", sum(whole))


if __name__ == "__main__":
    main(*sys.argv[1:])
