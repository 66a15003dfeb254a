"""The kernel's sockets: bytes on the wire, KTLS state, who owns them.

Begin with ktls_socket.py, then with what its users have of it: rpcside.py (RPC), calls.py (a
daemon's system calls), stat.py (figures). detours.py is what becomes of data that kernel TLS does
not take, the other files are the ways themselves. It may touch owners and the ground.
"""
