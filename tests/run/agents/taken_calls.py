"""What a program may do with a socket that it has got by ACCEPT: each line that it prints is a
check.

taken_calls.py FAMILY
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable

FAMILY = int(sys.argv[1])
ULP, SOL_TLS, TX, RX = 31, 282, 1, 2
KEY = struct.pack("<HH", 0x304, 51) + bytes(36)


def refused(what: Callable[..., object], *args: object) -> str:
    try:
        what(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "None"


netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
accept = struct.pack("<BBHHHI", 2, 0, 0, 8, 2, 1)
netlink.send(struct.pack("<IHHII", 16 + len(accept), FAMILY, 1, 1, 0) + accept)
reply = netlink.recv(4096)
number = struct.unpack_from("<i", reply, 24)[0]
tcp = socket.socket(fileno=number)
print(os.get_inheritable(number), tcp.getpeername()[0], tcp.family == socket.AF_INET)
tcp.setblocking(True)
tcp.sendall(b"in clear")
print(tcp.recv(5))
print(refused(tcp.setsockopt, SOL_TLS, 99, b""), tcp.setsockopt(socket.IPPROTO_TCP, ULP, b"tls"))
print(tcp.getsockopt(socket.IPPROTO_TCP, ULP, 16), tcp.setsockopt(socket.IPPROTO_TCP, 1, 1))
copy = tcp.dup()
copy.setsockopt(SOL_TLS, TX, KEY)
if not os.fork():  # whichever process has it
    tcp.setsockopt(SOL_TLS, RX, KEY)
    os._exit(0)
os.wait()
control = [(SOL_TLS, 1, b"\x15")]
print(tcp.send(b"sealed"), tcp.sendmsg([b"\1", b"\0"], control), refused(tcp.recv, 10))
other = socket.create_connection(tcp.getpeername())
print(refused(other.setsockopt, SOL_TLS, TX, KEY))
print("end", flush=True)
