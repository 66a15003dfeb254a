"""Programs written for a real Linux, unchanged, on a host of ours: `umktls run`.

Begin with sockets.py, whose head says how a socket is replaced, then calls.py, the table of system
calls. reactor.py tells what happens, without a task for each socket. seccomp.py, memory.py, proc.py
and tracee.py are the ground: a process whose system calls come here, its memory, its descriptors;
they know nothing of TLS. agency.py and what it names are for programs that are another host's
handshake agent. supervisor.py puts it together. It may touch userland, the kernel and all below
them.
"""
