"""The programs NFS and MOUNT: one function for each procedure.

Begin with server.py (the table of procedures) and calls.py (what each call begins with); mountd.py
is MOUNT. It may touch the tree and exports.
"""
