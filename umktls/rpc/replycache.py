"""The duplicate request cache: a call that is repeated after a reconnect is not executed twice.

A client that lost its connection sends again what was not answered. Where the first copy was
executed (a REMOVE, an exclusive CREATE), executing the second would report a failure of something
that succeeded. So replies are kept, the oldest are forgotten, and a call is told by its caller's
host (the port may change with the connection), by who on that host may be answered (see `Asker`),
its transaction id, its procedure, and a checksum of its credential and of the begin of its
arguments, where they differ if they differ at all.

Xids and arguments travel in clear where there is no TLS, and any user of the host can guess them.
So a call in clear neither gets the reply to one in TLS (a CREATE's has a file handle) nor leaves
one for it (a REMOVE that was refused).

A copy of a call that is being executed waits for the reply to the first. "Being executed" lasts as
long as the job exists: if a connection ends before its job has begun, the job is garbage, and a
copy counts as new.
"""

from __future__ import annotations

import threading
import weakref
import zlib
from collections import OrderedDict
from functools import lru_cache
from typing import Protocol

from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import AuthSys, Call
from umktls.rpc.xdr import Buffer

__all__ = ["Asker", "CallKey", "Replies", "ReplyCache", "Running", "call_key", "holder"]

# Who may be answered, the same for two connections of one client with the same security: in clear
# or in TLS, from a reserved port or not; behind a verified certificate its `Holder` and its user,
# and the port says nothing more.
Asker = tuple[str, bool] | tuple[str, "Holder | None", AuthSys | None]
# Whose a certificate is (see `holder`); None: not known.
Holder = bytes | tuple[tuple[bytes, ...], bytes, bytes, tuple[bytes, ...]]
CallKey = tuple[bytes, int, int, int, int, int, int]

# Of the arguments of a WRITE it is the file and the offset that count, not all of the data.
CHECKED_BYTES = 1024


def holder(certificate: PeerCertificate) -> Holder:
    """Whose a verified certificate is, the same when it has been renewed: a client may get another
    one between the loss of a connection and the next, and has to be known again.

    A CA gives a subject that is not empty to one holder only, who may have several certificates by
    it (RFC 5280 section 4.1.2.6). A name says little without who gave it, and two CAs may have the
    same name: so it is the subject and its other names, behind these very CAs, by their
    fingerprints, up to the trusted one. Where the CAs are not known, or the subject is empty or too
    long to be told (`umktls.rpc.certificate`), it is this certificate and no other. A subject that
    is given to two all the same lets one ask for what the other was answered, if it knows the very
    bytes and the transaction id of the call and comes from the same host; what an export gives to
    certain certificates (`Service.entitled`) goes by the one that is shown now in any case.
    """
    if certificate.subject and certificate.authorities:
        return (
            certificate.authorities,
            certificate.issuer,
            certificate.subject,
            certificate.names,
        )
    return certificate.fingerprint


def call_key(call: Call, address: object, asker: Asker) -> CallKey:
    """What two copies of one call have in common."""
    host = address[0] if isinstance(address, tuple) and address else address
    body = call.body
    length = len(body)
    checked = body if length <= CHECKED_BYTES else body[:CHECKED_BYTES]
    checksum = zlib.crc32(checked, zlib.crc32(call.credential.wire))
    who = _caller(host, asker)
    return (who, call.xid, call.program, call.version, call.procedure, length, checksum)


@lru_cache(maxsize=1024)
def _caller(host: object, asker: Asker) -> bytes:
    """Who calls, as one value whose hash is made once: a key is looked for again and again."""
    return repr((host, asker)).encode()


class Running:
    """A call that is being executed: where copies of it wait for the reply, in threads.

    There is one for each call, and a copy of hardly any: so the lock that copies wait for, which
    is held until the reply is there, is made by the first of them."""

    _executed: threading.Lock | None = None
    _reply: bytes | None = None

    def finish(self, reply: bytes) -> None:
        """To be called once."""
        self._reply = reply
        # In this order: a copy makes the lock before it looks for the reply.
        if self._executed is not None:
            self._executed.release()

    @property
    def finished(self) -> bool:
        return self._reply is not None

    def wait(self, seconds: float) -> list[Buffer] | None:
        """The reply; nothing to be sent if it is not there after `seconds`; None if it will never
        be: then the copy is to be executed."""
        with _making:
            if self._executed is None:
                executed = threading.Lock()
                executed.acquire()
                self._executed = executed
        if self._reply is None:
            if not self._executed.acquire(timeout=seconds):
                return []
            self._executed.release()  # for the next copy
        return [] if self._reply is None else [self._reply]


_making = threading.Lock()


class Replies(Protocol):
    """What a dispatcher needs of a cache."""

    def begin(self, key: CallKey) -> Running | None:
        """The call is going to be executed, as long as the caller keeps what this returns; None
        where it is not new: then `lookup` has more."""

    def lookup(self, key: CallKey) -> list[Buffer] | Running | None:
        """The reply to be sent again; what it waits for that is executed; None for a call that is
        new, or is again."""

    def finish(self, key: CallKey, running: Running, reply: list[Buffer]) -> None:
        """Keep a reply, and forget the oldest ones beyond the limits."""


class ReplyCache:
    """At most `entries` replies of together at most `size` bytes. Jobs may finish in threads."""

    def __init__(self, entries: int = 4096, size: int = 4 << 20) -> None:
        self._entries = entries
        self._size = size
        self._bytes = 0
        self._lock = threading.Lock()
        # By reference alone, since a WeakValueDictionary costs more than all else here: what was
        # given up is swept out when there are many.
        self._running: dict[CallKey, weakref.ref[Running]] = {}
        self._sweep_at = entries
        self._replies: OrderedDict[CallKey, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replies)

    def begin(self, key: CallKey) -> Running | None:
        running = Running()
        with self._lock:
            if key in self._replies:
                return None
            other = self._running.get(key)
            if other is not None and other() is not None:
                return None
            self._running[key] = weakref.ref(running)
            if len(self._running) > self._sweep_at:
                self._sweep()
        return running

    def lookup(self, key: CallKey) -> list[Buffer] | Running | None:
        with self._lock:
            reply = self._replies.get(key)
            if reply is None:
                running = self._running.get(key)
                return None if running is None else running()
            self._replies.move_to_end(key)
            return [reply]

    def _sweep(self) -> None:
        alive = {key: running for key, running in self._running.items() if running() is not None}
        self._running = alive
        self._sweep_at = max(self._entries, 2 * len(alive))

    def finish(self, key: CallKey, running: Running, reply: list[Buffer]) -> None:
        kept = b"".join(reply)
        replies = self._replies
        with self._lock:
            self._running.pop(key, None)
            before = replies.pop(key, None)
            replies[key] = kept
            self._bytes += len(kept) if before is None else len(kept) - len(before)
            while self._bytes > self._size or len(replies) > self._entries:
                self._bytes -= len(replies.popitem(last=False)[1])
        running.finish(kept)
