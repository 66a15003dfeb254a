"""What libc is to a daemon: system calls, the upcall service, blocking input and output.

Begin with upcalls.py, by which a daemon of either version is called, and libc.py, its system calls;
sockets.py is a socket that it has taken; agent.py is for agents of Linux's handshake upcall.
Threads and deadlines, no trio; it knows nothing of the kernel's own code, only the protocols
between the two (umktls.upcall).
"""
