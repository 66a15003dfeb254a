"""The handshake daemons `rpctlscd` and `rpctlssd`: ordinary processes, TLS by pyOpenSSL.

Rooms, from the top floor down, each of which knows those below it: `programs` (the two commands,
and the service that answers upcalls), `sessions` (a handshake, and what a daemon does for its
session afterwards), `tls` (OpenSSL, and whom it trusts). Begin with programs/service.py and
sessions/handshake.py. The kernel is spoken to by umktls.userland alone.
"""
