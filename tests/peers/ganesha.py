"""nfs-ganesha, the NFS server that runs in user space, with rpcbind, in a network of their own.

    with ganesha(tmp_path) as server:
        subprocess.run(server.network("nfs-ls", "nfs://127.0.0.1/run/export"))

It has NFS (versions 3 and 4) on its usual port, MOUNT on another one, and rpcbind on port 111, each
by TCP and UDP, and no TLS. What it exports is a tmpfs, because its file system layer VFS needs
handles of files (open_by_handle_at(2)), which not every file system below a test has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import patience
from tests.peers.namespace import Namespace, namespace, needs
from tests.system.live import until

__all__ = ["Ganesha", "ganesha"]

START_SECONDS = 30.0
NFS_PORT, MOUNT_PORT = 2049, 20048
EXPORT = "/run/export"
ELSEWHERE = "/run/elsewhere"
# No grace period: nobody has state to claim. CLIENT: the second export is for others only.
CONFIG = f"""
NFS_CORE_PARAM {{ Protocols = 3, 4; NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT};
    Enable_NLM = false; Enable_RQUOTA = false; }}
NFSV4 {{ Graceless = true; }}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{ Export_Id = 1; Path = {EXPORT}; Pseudo = /export; Access_Type = RW;
    Squash = No_Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}
EXPORT {{ Export_Id = 2; Path = {ELSEWHERE}; Pseudo = /elsewhere; Access_Type = None;
    SecType = sys; FSAL {{ Name = VFS; }}
    CLIENT {{ Clients = 192.0.2.0/24; Access_Type = RO; }} }}
"""


@dataclass
class Ganesha(Namespace):
    """A server that is ready. `log` is what it says, `port` and `mount_port` where it listens,
    `exported` the path that it exports to everybody, `elsewhere` one for other clients only."""

    log: Path
    port: int = NFS_PORT
    mount_port: int = MOUNT_PORT
    exported: str = EXPORT
    elsewhere: str = ELSEWHERE

    @property
    def files(self) -> Path:
        """The exported directory, as this process reaches it."""
        return self.path(self.exported)


@contextmanager
def ganesha(place: Path) -> Iterator[Ganesha]:
    """A server inside the block; `place` is a directory for its files."""
    needs("ganesha.nfsd", "rpcbind")
    config, log = place / "ganesha.conf", place / "ganesha.log"
    config.write_text(CONFIG)
    with ExitStack() as stack:
        within = stack.enter_context(namespace())
        for path in (EXPORT, ELSEWHERE, "/run/nfs/ganesha", "/run/ganesha"):
            within.path(path).mkdir(parents=True)
        output = place / "peers.log"
        stack.enter_context(within.running("rpcbind", "-f", "-w", log=output))
        until(lambda: listens(within, 111), "rpcbind listens", patience(START_SECONDS))
        line = ("ganesha.nfsd", "-F", "-f", config, "-L", log, "-p", "/run/ganesha.pid")
        server = stack.enter_context(within.running(*line, log=output))
        until(
            lambda: server.poll() is not None or is_ready(log),
            "nfs-ganesha is ready",
            patience(START_SECONDS),
        )
        assert server.poll() is None, log.read_text() if log.exists() else output.read_text()
        yield Ganesha(within.pid, log)


def listens(within: Namespace, port: int) -> bool:
    try:
        within.connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


def is_ready(log: Path) -> bool:
    return log.exists() and "NFS SERVER INITIALIZED" in log.read_text(errors="replace")
