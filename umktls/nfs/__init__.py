"""NFS version 3 and MOUNT version 3 as XDR types, without I/O (RFC 1813; names are the RFC's).

Begin with program.py, the table of procedures; their arguments and results are in reading.py and
changing.py, what these share in basic.py, MOUNT's in mount.py. It imports umktls.rpc.
"""
