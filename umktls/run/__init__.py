"""Programs written for a real Linux, unchanged, on a host of ours: `umktls run`.

Begin with sockets.py, whose head says how a socket is replaced, then calls.py, the table of system
calls. seccomp.py, memory.py, proc.py and tracee.py are the ground: a process whose system calls
come here, its memory, its descriptors; they know nothing of TLS. supervisor.py puts it together. It
may touch the kernel and all below it.
"""
