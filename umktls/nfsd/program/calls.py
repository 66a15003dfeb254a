"""One call being served: what it is about, in whose name, and what its reply says if it fails.

An operation is a function (call, arguments) -> resok. It names the files it is about by `look` or
`change`; if it ends by an error, `failed` puts their attributes into the resfail, in the order in
which they were named, which is the order that RFC 1813 gives to the fields.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

from umktls.dataclass import dataclass
from umktls.kernel.team.shared import Shared
from umktls.nfs.status import status_of
from umktls.nfs.types import nfsstat3, sattr3, wcc_data
from umktls.nfsd.exports.exports import Export
from umktls.nfsd.exports.managedgroups import ManagedGroups
from umktls.nfsd.program.credentials import Actor, Identity, believed
from umktls.nfsd.program.stripes import Stripe
from umktls.nfsd.tree import hostcalls
from umktls.nfsd.tree.attributes import post_op, set_attributes, wcc
from umktls.nfsd.tree.descriptor import READ, WRITE, Descriptor
from umktls.nfsd.tree.directory import Listings
from umktls.nfsd.tree.errors import NfsError
from umktls.nfsd.tree.handles import Handles, Node
from umktls.nfsd.tree.volume import Volume
from umktls.rpc.message import AuthStat
from umktls.rpc.server import CallContext, NotAuthentic, Peer

__all__ = ["Call", "Changed", "Operation", "Site", "WriteVerifier", "status_of_error"]

ResultT = TypeVar("ResultT")


class WriteVerifier:
    """The `value` by which clients know whether what they have written UNSTABLE may be lost.

    The workers of a server have one in common: a client may have sent to one worker what another
    one has lost.
    """

    def __init__(self, value: bytes, shared: Shared | None = None) -> None:
        self._value = value
        self._shared = shared

    @property
    def value(self) -> bytes:
        return self._value if self._shared is None else self._shared.verifier

    def renew(self) -> None:
        """Something is lost: have all clients send again what they have not committed."""
        self._value = secrets.token_bytes(len(self._value))
        if self._shared is not None:
            self._shared.verifier = self._value


@dataclass(frozen=True, slots=True)
class Site:
    """What all calls share.

    umask: this process's.
    stripe: gives a file's lock.
    groups: the groups of callers; None: what they say is believed.
    """

    handles: Handles
    listings: Listings
    actor: Actor
    write_verifier: WriteVerifier
    umask: int
    stripe: Callable[[tuple[int, int]], Stripe]
    groups: ManagedGroups | None = None


class Changed:
    """A file that the call changes, with its attributes before that."""

    __slots__ = ("before", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.before = node.stat()

    def wcc(self) -> wcc_data:
        return wcc(self.before, self.node)


class Call:
    """See the head of this file."""

    __slots__ = ("_context", "_held", "_identity", "_named", "site")

    def __init__(self, site: Site, context: CallContext) -> None:
        self.site = site
        self._context = context
        self._named: list[Node | Changed] = []
        self._held: list[Stripe] = []
        self._identity: tuple[Export, Identity] | None = None

    def node(self, handle: bytes) -> Node:
        """The file of a handle, if the client may use the export: see `check`."""
        node = self.site.handles.node(handle)
        export = node.volume.export
        if export.guarded:
            self.check(export)
        return node

    def check(self, export: Export) -> None:
        """Check that the client may use an export.

        Raises NotAuthentic (TOOWEAK) where the connection has less security than the export asks
        for, NfsError (ACCES) where it is not for this client.
        """
        peer = self.peer
        objection = export.objection(peer)
        if objection is None:
            return
        peer.refused(export.name, objection)
        if export.weakness(peer):
            raise NotAuthentic(AuthStat.AUTH_TOOWEAK)
        raise NfsError(nfsstat3.NFS3ERR_ACCES)

    @property
    def peer(self) -> Peer:
        """The connection on which the call has come."""
        return self._context.peer

    def look(self, handle: bytes) -> Node:
        """A file whose attributes go into the reply."""
        node = self.node(handle)
        self._named.append(node)
        return node

    def change(self, handle: bytes) -> Changed:
        """A directory whose attributes, before and after, go into the reply, or a file whose
        attributes are set. Nobody else changes it until the call is `over`: a client takes what
        is between before and after for its own work (RFC 1813 section 2.6, wcc_data)."""
        node = self.node(handle)
        self._know_caller(node.volume)
        self._hold(self.site.stripe(node.file))
        return self._change(node)

    def change_both(self, handle: bytes, other: bytes) -> tuple[Changed, Changed]:
        """As `change`, two directories at the same time, which may be one."""
        one, two = self.node(handle), self.node(other)
        self._know_caller(two.volume)
        stripes = {self.site.stripe(one.file), self.site.stripe(two.file)}
        self._hold(*sorted(stripes, key=attrgetter("order")))
        return self._change(one), self._change(two)

    def write(self, handle: bytes) -> Changed:
        """A file whose attributes, before and after, go into the reply, and whose data is changed:
        as others may at the same time."""
        return self._change(self.node(handle))

    def _change(self, node: Node) -> Changed:
        changed = Changed(node)
        self._named.append(changed)
        if node.volume.export.read_only:
            raise NfsError(nfsstat3.NFS3ERR_ROFS)
        return changed

    def _know_caller(self, volume: Volume) -> None:
        """Before locks are taken: to look up his groups may take as long as the network wants, and
        who waits for a lock is, with most calls, the event loop."""
        if self.site.groups is not None:
            self.identity(volume)

    def _hold(self, *stripes: Stripe) -> None:
        for stripe in stripes:
            stripe.acquire()
            self._held.append(stripe)

    def over(self) -> None:
        """The reply is made: others may change again what this call has changed."""
        while self._held:
            self._held.pop().release()

    def failed(self, resfail: Callable[..., ResultT], error: NfsError | OSError) -> ResultT:
        """The reply of a call that ended by NfsError or OSError."""
        replies = [
            item.wcc() if isinstance(item, Changed) else post_op(item) for item in self._named
        ]
        return resfail(status_of_error(error), *replies)

    def identity(self, volume: Volume) -> Identity:
        """Who the caller is for an export; asked for several times by some calls."""
        known, export = self._identity, volume.export
        if known is not None and known[0] is export:
            return known[1]
        context = self._context
        identity = believed(export, context.credential, context.peer, self.site.groups)
        self._identity = export, identity
        return identity

    def acting(self, volume: Volume, group: int | None = None) -> AbstractContextManager[None]:
        """`with call.acting(volume):` the thread has the caller's rights, and may be in one more
        group. Not to be nested."""
        actor = self.site.actor
        if not actor.privileged:
            return actor.as_oneself
        identity = self.identity(volume)
        if group is not None:
            identity = replace(identity, gids=(*identity.gids, group))
        return actor.acting(identity)

    def open(self, node: Node, access: int, status: os.stat_result | None = None) -> Descriptor:
        """A descriptor for READ or WRITE, if the caller may; `status`: the file's, if known."""
        if node.type != stat.S_IFREG:
            raise NfsError(nfsstat3.NFS3ERR_INVAL)
        if self.site.actor.privileged and not self._may(node, access, status):
            raise NfsError(nfsstat3.NFS3ERR_ACCES)
        return node.open(access)

    def _may(self, node: Node, access: int, status: os.stat_result | None) -> bool:
        """Whether a caller may read or write. The owner always may: he may have opened the file
        before its mode was changed. Who may execute may read, to be able to execute."""
        identity = self.identity(node.volume)
        if not identity.uid or identity.uid == (status or node.stat()).st_uid:
            return True
        with self.site.actor.acting(identity):
            return any(hostcalls.access(node.fd, mode) for mode in ACCESS_MODES[access])

    def set_attributes(
        self, node: Node, wanted: sattr3, now: os.stat_result, group: int | None = None
    ) -> None:
        """SETATTR's work; `now` is the file's status. `group`: see `acting`."""
        with node.volume.opening(node.file):
            if wanted.size is not None:
                self.open(node, WRITE, now)
            set_attributes(node, wanted, now, self.acting(node.volume, group))


ACCESS_MODES = {READ: (os.R_OK, os.X_OK), WRITE: (os.W_OK,)}
Operation = Callable[[Call, Any], Any]


def status_of_error(error: NfsError | OSError) -> nfsstat3:
    return error.status if isinstance(error, NfsError) else status_of(error.errno or 0)
