"""Upcalls: which daemon is asked, by which transport, and what its answers mean.

Begin with tls.py (a handshake, a control record, the end), then daemons.py (whose turn it is) and
handover.py (what becomes of a daemon's sessions). The transports are registered.py (version 1),
netlink.py (version 2) and linuxnetlink.py, with Linux's handshake upcall (agents.py). It may touch
sockets, owners and the ground; what it needs of a host it names itself.
"""
