"""Socket options: what each checks, refuses and does to a socket's state, per kernel.

Begin with option.py (how a row looks) and table.py (all rows); the kernels' own are in freebsd.py
and linux.py. It may touch the socket's state, engines and sessions, and nothing calls it but
`umktls.ktls.calls`.
"""
