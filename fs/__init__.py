"""The file system: FUSE requests in, NFS version 3 calls out (installed as umktls_fs).

Begin with operations.py, which hands each request to the part that knows what it means: names
(namespace.py), open files (files.py), directories (directories.py), attributes (metadata.py). Each
of these calls the server by calls.py. What is remembered of files and names is in inodes.py,
attributes.py, kernelcache.py and knownnames.py; written data waits in writeback.py. mount.py is the
life of a mount, optiontable.py what it can be told, tree.py the way without a mount (`umktls ls`,
`cp`), which imports no pyfuse3. operations.py, readturn.py, serving.py and session.py call it; the
others have only its types.
"""
