"""An NFS version 3 server on directories of this host: see `NfsServer`.

Rooms, from the top floor down, each of which knows those below it: `program` (the procedures),
`tree` (handles, and the files they lead to), `exports` (what is served to whom). Begin with
program/server.py.
"""

from umktls.nfsd.exports.exports import Export
from umktls.nfsd.program.server import NfsServer

__all__ = ["Export", "NfsServer"]
