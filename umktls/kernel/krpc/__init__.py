"""RPC in the kernel, as FreeBSD calls it: clients and servers on the sockets of a host.

Begin with client.py and connecting.py (a mount's connection) or serverhost.py and incoming.py (a
server's); mountd.py and rpcbind.py find out where to go. It may touch all rooms but team.
"""
