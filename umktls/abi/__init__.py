"""The two kernels' numbers and struct layouts, under the kernels' own names.

Begin with freebsd.py and linux.py; personality.py says, as data, what differs between kernels.
netlink.py is FreeBSD's; what is otherwise in Linux's is in handshake.py. No code but packing and
unpacking; nothing else of umktls is imported but its errors.
"""
