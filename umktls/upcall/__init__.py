"""The upcall's protocols: programs, system calls, states. Bytes and events, no sockets.

Begin with states.py (the life of an upcall) and syscalls.py (what a daemon may ask the kernel).
versions.py has the two versions side by side: rpctls.py is the first, rpctls2.py and netlink.py the
second. Linux's handshake upcall is a table, handshake.py, by which genl.py reads and writes. It
imports umktls.rpc, whose messages the versions' upcalls are.
"""
