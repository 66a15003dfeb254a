"""Linux: new keys on a KTLS socket."""

from __future__ import annotations

import errno

from tests.conformance.rows import NEWEST_LINUX, OLDER_LINUX, OURS, row
from tests.conformance.world import (
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    TICKET,
    World,
    errno_of,
    keys,
    receiving,
    sending,
)

REKEY = "Linux: rekeying"
NEWEST = (*NEWEST_LINUX, *OURS)  # ours rekeys as Linux does


@row(REKEY, "After a KeyUpdate was read every read is EKEYEXPIRED until the new key is set", NEWEST)
def key_update(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"old") + peer.seal(KEY_UPDATE, HANDSHAKE))
    w.arrive(w.peer(keys(epoch=1)).seal(b"new"))
    expired = errno.EKEYEXPIRED
    assert w.outcomes(4) == [b"old", KEY_UPDATE, expired, expired]
    assert not w.socket.readable()
    w.enable("rx", keys(epoch=1))
    assert w.socket.readable()
    assert w.recv()[0] == b"new"
    assert w.socket.counters.rekeys_received == 1


@row(
    REKEY,
    "Only a record's first byte is looked at: a KeyUpdate behind a ticket is missed",
    NEWEST_LINUX,
)
def key_update_behind_another(w: World) -> None:
    w.arrive(receiving(w).seal(TICKET + KEY_UPDATE, HANDSHAKE))
    w.arrive(w.peer(keys(epoch=1)).seal(b"new"))
    assert w.outcomes(2) == [TICKET + KEY_UPDATE, errno.EBADMSG]


@row(REKEY, "It needs a control buffer like any such record", NEWEST)
def key_update_eio(w: World) -> None:
    w.arrive(receiving(w).seal(KEY_UPDATE, HANDSHAKE))
    assert errno_of(w.recv, room=0) == errno.EIO
    assert w.recv()[0] == KEY_UPDATE


@row(
    REKEY,
    "A peek that opened the KeyUpdate pauses too; data before it stays readable",
    NEWEST_LINUX,
)
def key_update_peek(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(b"old") + peer.seal(KEY_UPDATE, HANDSHAKE))
    assert w.recv(flags=w.abi.peek)[0] == b"old"
    assert not w.socket.readable()
    assert w.outcomes(3) == [b"old", KEY_UPDATE, errno.EKEYEXPIRED]


@row(REKEY, "EKEYEXPIRED even where the stream has ended", NEWEST_LINUX)
def key_update_end(w: World) -> None:
    w.arrive(receiving(w).seal(KEY_UPDATE, HANDSHAKE))
    w.fin()
    assert w.outcomes(3) == [KEY_UPDATE, errno.EKEYEXPIRED, errno.EKEYEXPIRED]


@row(REKEY, "EKEYEXPIRED even where the connection was reset", NEWEST_LINUX)
def key_update_reset(w: World) -> None:
    w.arrive(receiving(w).seal(KEY_UPDATE, HANDSHAKE))
    w.socket.connection_lost()
    assert w.outcomes(2) == [KEY_UPDATE, errno.EKEYEXPIRED]
    w.enable("rx", keys(epoch=1))
    assert w.outcomes(2) == [errno.ECONNRESET, b""]


@row(REKEY, "Sending does not pause: the KeyUpdate goes, then the new key is set", NEWEST)
def tx_rekey(w: World) -> None:
    peer = sending(w)
    assert peer.open(w.send(KEY_UPDATE, HANDSHAKE)) == [(HANDSHAKE, KEY_UPDATE)]
    assert peer.open(w.send(b"still old")) == [(DATA, b"still old")]
    w.enable("tx", keys(epoch=1))
    assert w.peer(keys(epoch=1)).open(w.send(b"new")) == [(DATA, b"new")]
    assert w.socket.counters.rekeys["tx"] == 1


@row(
    REKEY,
    "A record that is open when the new key is set goes under that one (tls_set_sw_offload)",
    NEWEST,
    note="It was not sealed under the old one, and is left as it is. What was open in front of the "
    "KeyUpdate has gone before that, so the peer opens everything; only a program that sets a key "
    "without having said so should have closed its record first.",
)
def open_record(w: World) -> None:
    peer = sending(w)
    w.send(b"old", flags=w.abi.more)
    found = peer.open(w.send(KEY_UPDATE, HANDSHAKE))
    assert found == [(DATA, b"old"), (HANDSHAKE, KEY_UPDATE)]
    w.send(b"open, ", flags=w.abi.more)
    w.enable("tx", keys(epoch=1))
    assert w.peer(keys(epoch=1)).open(w.send(b"and new")) == [(DATA, b"open, and new")]


@row(REKEY, "Keys and nonces are not checked for being used again", NEWEST)
def same_key(w: World) -> None:
    sending(w)
    first = w.send(b"data")
    w.enable("tx")
    assert w.send(b"data") == first


@row(REKEY, "The right key set later opens a record that failed under the wrong one", NEWEST_LINUX)
def late_key(w: World) -> None:
    w.enable("rx", keys(epoch=1))
    w.arrive(w.peer().seal(b"data"))
    assert w.outcomes(2) == [errno.EBADMSG, errno.EBADMSG]
    w.enable("rx")
    assert w.recv()[0] == b"data"


@row(
    REKEY, "Before 6.14: a record like any other, and what follows it does not verify", OLDER_LINUX
)
def key_update_before(w: World) -> None:
    peer = receiving(w)
    w.arrive(peer.seal(KEY_UPDATE, HANDSHAKE) + w.peer(keys(epoch=1)).seal(b"new"))
    assert w.socket.readable()
    assert w.outcomes(3) == [KEY_UPDATE, errno.EBADMSG, errno.EBADMSG]
    assert w.socket.counters.rekeys_received == 0
