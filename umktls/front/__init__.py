"""RPC-with-TLS in front of servers that have none: what comes sealed goes to a backend in clear.

Begin with carried.py, one client's connection; clients.py says who may come in, backends.py where
it goes, lane.py and through.py carry the bytes. It stands on the kernel's server host (boot.py).
"""
