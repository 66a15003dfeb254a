"""What a program that speaks netlink by itself may do: each line that it prints is a check.

netlink_calls.py GROUP FAMILY
"""

import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Callable

GROUP, FAMILY = map(int, sys.argv[1:])
GENERIC, SOL_NETLINK, ADD_MEMBERSHIP, CAP_ACK, EXT_ACK = 16, 270, 1, 10, 11


def message(kind: int, flags: int, seq: int, body: bytes = b"") -> bytes:
    return struct.pack("<IHHII", 16 + len(body), kind, flags, seq, 0) + body


def generic(command: int, *attributes: bytes) -> bytes:
    return struct.pack("<BBH", command, 1, 0) + b"".join(attributes)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def refused(what: Callable[..., object], *args: object) -> str:
    try:
        what(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "None"


def new(kind: int = socket.SOCK_RAW) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, kind, GENERIC)


GET = message(0x10, 5, 77, generic(3, attribute(2, b"handshake\0")))

a = new()
print(a.family == socket.AF_NETLINK, a.type == socket.SOCK_RAW, a.proto == GENERIC)
print(a.getsockname())
a.bind((0, 0))
print(a.getsockname()[0] == os.getpid(), refused(a.bind, (5, 0)))
b = new(socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
print(refused(b.bind, a.getsockname()), refused(b.recv, 10), b.getblocking())
b.bind((123456, 0))
print(
    b.type == socket.SOCK_DGRAM,
    b.getsockname(),
    refused(b.getsockopt, SOL_NETLINK, 99),
    refused(b.setsockopt, 6, 1, 1),
)
c = new()
c.bind((0, 0))
print(c.getsockname()[0] > 1 << 31)
# one that is asked answers within sendmsg
a.sendmsg([GET], [], 0, (0, 0))
b.send(GET)
print(select.select([b], [], [], 0)[0] == [b], select.select([a], [], [], 0)[0] == [a])
length = a.recv_into(bytearray(8), 8, socket.MSG_PEEK | socket.MSG_TRUNC)
data, _, flags, source = a.recvmsg(4096)
print(length == len(data), flags, source)
print(struct.unpack_from("<HHII", data, 4)[2:] == (77, os.getpid()))
ack, sender = a.recvfrom(4096)
print(len(ack), struct.unpack_from("<HHIIi", ack, 4), sender)
flags = b.recvmsg(20)[2]
print(flags == socket.MSG_TRUNC, len(b.recv(4096)))
# errors: the whole request, but with CAP_ACK
unknown = message(0x10, 1, 78, generic(3, attribute(2, b"nonesuch\0")))
a.send(unknown)
answer = a.recv(4096)
print(
    len(answer) == 20 + len(unknown),
    struct.unpack_from("<i", answer, 16)[0],
    answer[20:] == unknown,
)
a.setsockopt(SOL_NETLINK, CAP_ACK, 1)
print(a.getsockopt(SOL_NETLINK, CAP_ACK), a.getsockopt(SOL_NETLINK, EXT_ACK))
a.send(unknown)
print(len(a.recv(4096)))
print(refused(a.sendto, GET, (4711, 0)), refused(a.sendto, GET, (0, 2)), refused(a.send, b""))
# what is no request is acknowledged at best; what comes by write(2) is answered too
a.send(message(0x10, 4, 79) + message(0x10, 0, 80))
print(len(a.recv(4096)), refused(a.recv, 10, socket.MSG_DONTWAIT))
os.write(a.fileno(), GET)
print(struct.unpack_from("<I", os.read(a.fileno(), 4096), 8)[0], len(a.recv(4096)))
print(
    refused(a.setsockopt, SOL_NETLINK, ADD_MEMBERSHIP, 7),
    a.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP),
    a.getsockname()[1],
)
os.write(a.fileno(), message(FAMILY, 1, 81, generic(2, attribute(2, struct.pack("<I", 1)))))
print(struct.unpack_from("<i", a.recv(4096), 16)[0])
if not os.fork():
    a.send(GET)
    print("child", len(a.recv(4096)) > 40, len(a.recv(4096)))
    os._exit(0)
os.wait()
r = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)  # NETLINK_ROUTE is the machine's
r.bind((0, 0))
r.send(message(18, 0x301, 1, bytes(16)))
print(len(r.recv(65536)) > 100)
a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("<qq", 0, 1000))
print(refused(a.recv, 10))
print("end", flush=True)
