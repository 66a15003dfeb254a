"""Who may own a socket besides RPC: a daemon, as the kernel calls it, and a session without one.

Begin with owner.py, then upcalls.py (a daemon that is called, whichever transport carries that) and
request.py (one upcall; of Linux's handshake upcall, handshake.py). It touches the ground alone, and
knows of a socket what it names itself (`Offered`).
"""
