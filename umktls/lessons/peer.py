"""The server of the lesson's test pair: a program of its own, as in the original.

Called as `python -m umktls.lessons.peer CERTIFICATE KEY`. It prints its port, then serves one
connection for each line on its standard input, which says how: `SSL_write` does everything by the
TLS library, `send` leaves the library after the handshake. It prints a line when the handshake is
done and its tickets are delivered, says HELLO THERE when a further line comes, and prints what it
was answered in hexadecimal.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import sys
import termios
import time

HELLO = b"HELLO THERE"
SECONDS = 20.0


def main(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        print(listener.getsockname()[1], flush=True)
        for line in sys.stdin:
            connection, _ = listener.accept()
            connection.settimeout(SECONDS)
            answer = serve(context, connection, by_library=line.strip() == "SSL_write")
            print(answer.hex(), flush=True)


def serve(context: ssl.SSLContext, connection: socket.socket, by_library: bool) -> bytes:
    """One connection; what the client said."""
    with context.wrap_socket(connection, server_side=True) as tls:
        wait_until_delivered(tls)
        print("handshake done", flush=True)
        sys.stdin.readline()
        if by_library:
            tls.sendall(HELLO)
            return tls.recv(4096)
        with socket.socket(fileno=tls.detach()) as plain:
            plain.settimeout(SECONDS)
            plain.sendall(HELLO)
            return plain.recv(4096)


def wait_until_delivered(tls: ssl.SSLSocket) -> None:
    """Until the client's system has everything: a small second write waits for the first's ACK."""
    ends = time.monotonic() + SECONDS
    while unacknowledged(tls) and time.monotonic() < ends:
        time.sleep(0.001)


def unacknowledged(tls: ssl.SSLSocket) -> int:
    """Bytes that were written and not acknowledged (SIOCOUTQ, which is TIOCOUTQ)."""
    answer = fcntl.ioctl(tls, termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
