"""The model of kernel TLS: no sockets of the machine, no clock, no tasks.

Rooms, from the top floor down, each of which knows those below it: `options` (what setsockopt and
getsockopt do), `socket` (the two halves, sendmsg, recvmsg), `engines` (who makes and opens
records), `session` (keys, suites, how records are framed, counters, errors). Begin reading in
calls.py, where a socket is put together from them.
"""
