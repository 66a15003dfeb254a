"""The upcall's protocols: programs, system calls, states. Bytes and events, no sockets.

Begin with states.py (the life of an upcall) and syscalls.py (what a daemon may ask the kernel).
versions.py has the two versions side by side: rpctls.py is the first, rpctls2.py and netlink.py the
second. It imports umktls.rpc, whose messages upcalls are.
"""
