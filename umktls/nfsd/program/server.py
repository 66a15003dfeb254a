"""The NFS server: exports in, RPC services out."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from umktls.errors import CallerError, WorldError
from umktls.kernel.krpc.descriptors import shares
from umktls.kernel.team.shared import Shared
from umktls.nfs import types
from umktls.nfs.program import MOUNT1, MOUNT3, NFS3
from umktls.nfsd.exports.exports import Export, LevelGate
from umktls.nfsd.exports.managedgroups import ManagedGroups
from umktls.nfsd.program import creation, files, listing, names
from umktls.nfsd.program.calls import Call, Operation, Site, WriteVerifier
from umktls.nfsd.program.credentials import Actor
from umktls.nfsd.program.mountd import Mountd
from umktls.nfsd.program.mounts import LocalMounts, Mounts, SharedMounts
from umktls.nfsd.program.stripes import local_stripes
from umktls.nfsd.program.waiting import handles_in, lane_of
from umktls.nfsd.tree.directory import Listings
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.handles import Handles
from umktls.nfsd.tree.locate import Locator
from umktls.nfsd.tree.volume import Volume, best_locator
from umktls.private import own_directory, read_secret
from umktls.rpc.server import CallContext, Handler, Lane, Service

__all__ = ["NfsServer", "write_verifier"]


class _Row(NamedTuple):
    operation: Operation
    resfail: Callable[..., Any]


OPERATIONS: dict[str, _Row] = {
    "GETATTR": _Row(files.getattr_, types.GETATTR3resfail),
    "SETATTR": _Row(files.setattr_, types.SETATTR3resfail),
    "LOOKUP": _Row(names.lookup, types.LOOKUP3resfail),
    "ACCESS": _Row(files.access, types.ACCESS3resfail),
    "READLINK": _Row(files.readlink, types.READLINK3resfail),
    "READ": _Row(files.read, types.READ3resfail),
    "WRITE": _Row(files.write, types.WRITE3resfail),
    "CREATE": _Row(creation.create, types.CREATE3resfail),
    "MKDIR": _Row(creation.mkdir, types.MKDIR3resfail),
    "SYMLINK": _Row(creation.symlink, types.SYMLINK3resfail),
    "MKNOD": _Row(creation.mknod, types.MKNOD3resfail),
    "REMOVE": _Row(names.remove, types.REMOVE3resfail),
    "RMDIR": _Row(names.rmdir, types.RMDIR3resfail),
    "RENAME": _Row(names.rename, types.RENAME3resfail),
    "LINK": _Row(names.link, types.LINK3resfail),
    "READDIR": _Row(listing.readdir, types.READDIR3resfail),
    "READDIRPLUS": _Row(listing.readdirplus, types.READDIRPLUS3resfail),
    "FSSTAT": _Row(files.fsstat, types.FSSTAT3resfail),
    "FSINFO": _Row(files.fsinfo, types.FSINFO3resfail),
    "PATHCONF": _Row(files.pathconf, types.PATHCONF3resfail),
    "COMMIT": _Row(files.commit, types.COMMIT3resfail),
}
BRIEF = {
    "READDIR": _Row(listing.briefly(listing.readdir), types.READDIR3resfail),
    "READDIRPLUS": _Row(listing.briefly(listing.readdirplus), types.READDIRPLUS3resfail),
}
OPEN_FILES = 4096
DESCRIPTORS_PER_FILE = 2
IDLE_SECONDS = 5.0
SECRET_LENGTH = 32


class NfsServer:
    """NFS version 3 and MOUNT version 3 on directories of this host.

    state_dir: a directory, made if missing, for the secret by which handles are authenticated; with
        the same one, handles survive a restart.
    locate: makes the locator of a directory.
    mount_tls: MOUNT asks for the security that NFS asks for, which real clients do not have there.
    manage_gids: see `umktls.nfsd.exports.managedgroups`.
    shared: what the workers of one server have in common, of which this is one.

    Call `expire` every few seconds, and `close` at the end.

    Raises `CallerError` for exports that do not go together, `WorldError` for a state directory
    that cannot be used, `UnsupportedError` for root without the right to act for others.
    """

    def __init__(
        self,
        exports: Sequence[Export],
        state_dir: str | os.PathLike[str],
        locate: Callable[[str], Locator] = best_locator,
        *,
        mount_tls: bool = False,
        manage_gids: bool = False,
        shared: Shared | None = None,
    ) -> None:
        _check(exports)
        self.exports = tuple(exports)
        secret = _secret(Path(state_dir))
        actor = Actor()
        self._listings = Listings(secret)
        self._secret = secret
        self._locate = locate
        alone = RLock()
        self._opening = (lambda file: alone) if shared is None else shared.opening
        self._known: list[Volume] = []
        self._gate = LevelGate(exports)
        with ExitStack() as stack:
            stack.callback(self._close_volumes)
            volumes = [self._volume(export) for export in exports]
            self._handles = Handles(volumes, _capacity(), self._current if shared else None)
            stack.pop_all()
        self._site = Site(
            self._handles,
            self._listings,
            actor,
            WriteVerifier(write_verifier(), shared),
            _umask(),
            local_stripes() if shared is None else shared.stripe,
            ManagedGroups() if manage_gids else None,
        )
        mounts: Mounts = LocalMounts() if shared is None else SharedMounts(shared.mounts)
        self._mountd = Mountd(self._site, volumes, self._current, mounts, clear=not mount_tls)
        self._mount_gate = self._gate if mount_tls else None

    def prepare_exports(self, exports: Sequence[Export]) -> None:
        """Check exports that are to be served. Raises what `replace_exports` would raise."""
        _check(exports)
        for export in exports:
            self._volume(export)

    def replace_exports(self, exports: Sequence[Export]) -> None:
        """Serve these from now on. Handles of those that stay remain good; what is not exported
        any more is stale. Raises what `NfsServer` does, and then everything stays as it was."""
        _check(exports)
        volumes = [self._volume(export) for export in exports]
        for volume, export in zip(volumes, exports, strict=True):
            volume.export = export
        self.exports = tuple(exports)
        self._gate.set_exports(exports)
        self._serve(volumes)

    def _serve(self, volumes: Sequence[Volume]) -> None:
        """These and no others. What else was open is closed when no call uses it any more."""
        self._known = list(volumes)
        self._handles.set_volumes(volumes)
        self._mountd.set_volumes(volumes)

    def _current(self, volume: Volume) -> Volume:
        """The volume of an export that is mounted by name: from now on another one, if another
        directory is at its path by now. OSError if none is."""
        current = self._volume(volume.export)
        if current is not volume:
            self._serve([current if each is volume else each for each in self._mountd.volumes])
        return current

    def _volume(self, export: Export) -> Volume:
        """The volume of an export: the same as before for the same directory."""
        for volume in self._known:
            if volume.is_of(export):
                return volume
        locator = self._locate(export.path)
        volume = Volume(export, self._secret, locator, self._opening)
        self._known.append(volume)
        return volume

    def services(self) -> list[Service]:
        """NFS3, MOUNT3 and MOUNT1, for the Dispatcher."""
        handlers = {name: _handler(self._site, row) for name, row in OPERATIONS.items()}
        slow = None if self._site.groups is None else self._waits
        mount = self._mountd.handlers()
        older = {name: mount[name] for name in ("DUMP", "UMNT", "UMNTALL", "EXPORT")}
        return [
            Service(
                NFS3,
                handlers,
                blocking=self._lanes(),
                brief={name: _handler(self._site, row) for name, row in BRIEF.items()},
                gate=self._gate,
                cache=True,
                entitled=self._entitled,
                slow=slow,
            ),
            Service(MOUNT3, mount, gate=self._mount_gate, slow=slow),
            Service(MOUNT1, older, gate=self._mount_gate),
        ]

    def _waits(self, context: CallContext) -> bool:
        """Whether the caller's groups have to be looked up first."""
        groups = self._site.groups
        return groups is not None and groups.waits(context.credential)

    def forget_groups(self) -> None:
        """Look up the groups of callers anew, if they are looked up."""
        if self._site.groups is not None:
            self._site.groups.forget()

    def _lanes(self) -> dict[str, Callable[[Any], Lane]]:
        """By procedure: the lane in which a call is executed, by its arguments."""
        return {name: lane_of(name, self._handles) for name in OPERATIONS}

    def _entitled(self, args: Any, context: CallContext) -> bool:
        """Whether the caller may use all exports that a call is about, as they are now."""
        volumes = map(self._handles.volume, handles_in(args))
        return all(
            volume is not None and volume.export.objection(context.peer) is None
            for volume in volumes
        )

    def expire(self, idle: float = IDLE_SECONDS) -> None:
        """Close files that have not been used for `idle` seconds: one that was removed behind the
        server's back keeps its space on the disk until then."""
        self._handles.expire(idle)
        self._listings.expire(idle)

    def close(self) -> None:
        """Close all files. No service may be called any more."""
        self._handles.clear()
        self._close_volumes()

    def _close_volumes(self) -> None:
        for volume in self._known:
            volume.locator.close()


def _check(exports: Sequence[Export]) -> None:
    if not exports:
        raise CallerError("nothing to export: name at least one directory")
    for what in ("name", "fsid"):
        values = {getattr(export, what) for export in exports}
        if len(values) < len(exports):
            raise CallerError(f"two exports have the same {what}: give one of them another")


def _handler(site: Site, row: _Row) -> Handler:
    operation, resfail = row

    def handle(args: Any, context: CallContext) -> Any:
        call = Call(site, context)
        try:
            return operation(call, args)
        except (OSError, NfsError) as error:
            return call.failed(resfail, error)
        finally:
            call.over()

    return handle


def _secret(state_dir: Path) -> bytes:
    """Read the secret; make it the first time. Two servers that start at once agree on one."""
    path = state_dir / "handles.key"
    try:
        own_directory(state_dir, "state directory", "choose another with --state")
        if not path.exists():
            _write_new(path, secrets.token_bytes(SECRET_LENGTH))
        secret = read_secret(path, "key of file handles")
    except OSError as error:
        raise WorldError(
            f"cannot keep the key of file handles in {path}: {error.strerror}; "
            "choose another state directory",
            error.errno,
        ) from error
    if len(secret) != SECRET_LENGTH:
        raise WorldError(f"{path} is damaged; remove it (clients will have to mount again)")
    return secret


def _write_new(path: Path, content: bytes) -> None:
    """Write a new file: all of it or nothing, on the disk, and never over what another has
    written."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_verifier() -> bytes:
    """The write verifier, from the host's boot id: see files.py. Where there is none, clients send
    data again more often."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = secrets.token_bytes(16)
    return hashlib.blake2s(boot, digest_size=8, person=b"verifier").digest()


def _umask() -> int:
    """The umask of this process. (os.umask tells it only by changing it.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise WorldError("/proc/self/status does not tell the umask")


def _capacity() -> int:
    """How many files may be kept open: this process needs descriptors for other things too."""
    return max(16, min(OPEN_FILES, shares().files // DESCRIPTORS_PER_FILE))
