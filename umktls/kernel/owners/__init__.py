"""Who may own a socket besides RPC: a daemon, as the kernel calls it, and a session without one.

Begin with owner.py, then upcalls.py: the life of an upcall, whichever transport carries it. It
touches the ground alone, and knows of a socket what it names itself (`Offered`).
"""
