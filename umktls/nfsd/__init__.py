"""An NFS version 3 server on directories of this host: see `NfsServer`."""

from umktls.nfsd.exports import Export
from umktls.nfsd.server import NfsServer

__all__ = ["Export", "NfsServer"]
