"""The file system: FUSE requests in, NFS version 3 calls out (installed as umktls_fs)."""
