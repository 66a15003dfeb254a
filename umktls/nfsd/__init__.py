"""An NFS version 3 server on directories of this host: see `NfsServer`."""

from umktls.nfsd.exports.exports import Export
from umktls.nfsd.program.server import NfsServer

__all__ = ["Export", "NfsServer"]
