"""The emulated kernel: trio, sockets of the machine, time, processes.

Rooms, from the top floor down, each of which knows those below it: `team`, `krpc`, `host`,
`upcalls`, `sockets`, `captures`, `owners`, `ground`. Begin with host/boot.py; docs/architecture.md
follows a call and a handshake through them.
"""
