"""What a daemon leaves with the kernel, so that a session outlives it.

Theory of operation
===================

The keys of a session are in the kernel; what only the daemon has is how they go on: the traffic
secrets, from which the next keys come, and the chain that a reload has to verify again. So a daemon
deposits that (UMKTLS_SESSION), and the kernel keeps it in memory, as bytes that it does not look
into. When the daemon goes, the session is an orphan: RPC goes on under the keys there are. The next
daemon of that role adopts it (umktls_adopt), reads the deposit, and goes on where the other one has
stopped.

That can be anywhere, in the middle of a KeyUpdate too. The kernel sees each step of one, because
each is a system call; it tells the successor by UMKTLS_KEYS how often the keys of each direction
were set, and whether the next ones are due: the KeyUpdate was sent or taken, and the new key not
set. From a secret all later ones follow, so a deposit may be older than the keys, and nothing has
to happen at one stroke. (It is renewed after each KeyUpdate all the same: from an old secret also
follow the keys that are to be forgotten, RFC 8446 section 7.2.)
"""

from __future__ import annotations

from typing import Annotated

from umktls.errors import CallerError
from umktls.rpc import xdr
from umktls.rpc.xdr import Struct, Uint, XdrError

__all__ = ["LAYOUT", "MAX_DEPOSIT", "Deposit", "KeyState"]

LAYOUT = 1
MAX_DEPOSIT = 65536  # what setsockopt takes
MAX_SECRET = 64
MAX_TEXT = 255
MAX_CERTIFICATE = 32768
MAX_CHAIN = 16


@xdr.struct
class Deposit(Struct):
    """One session.

    `version` is TLS's, such as 0x0304; `suite` the name in `umktls.ktls.session.suites`. Secrets
    are empty where keys cannot be renewed (TLS 1.2); the generations say how many KeyUpdates they
    have seen.
    `address` is the peer's, for the log. `chain` is the peer's verified one in DER, its own
    certificate first. `unfinished` is the beginning of a handshake message whose end has not come.
    """

    layout: Uint
    version: Uint
    suite: Annotated[bytes, xdr.string(MAX_TEXT)]
    tx_secret: Annotated[bytes, xdr.opaque(MAX_SECRET)]
    tx_generation: Uint
    rx_secret: Annotated[bytes, xdr.opaque(MAX_SECRET)]
    rx_generation: Uint
    address: Annotated[bytes, xdr.string(MAX_TEXT)]
    chain: Annotated[tuple[bytes, ...], xdr.array(xdr.opaque(MAX_CERTIFICATE), MAX_CHAIN)]
    unfinished: Annotated[bytes, xdr.opaque(MAX_DEPOSIT)]

    def __repr__(self) -> str:
        return f"Deposit({self.suite!r}, generations {self.tx_generation}, {self.rx_generation})"

    def to_bytes(self) -> bytes:
        """The socket option's value; raises `CallerError` for one that is too large."""
        data = b"".join(_deposit.encode(self))
        if len(data) > MAX_DEPOSIT:
            raise CallerError(f"a session of {len(data)} bytes: {MAX_DEPOSIT} can be deposited")
        return data

    @classmethod
    def from_bytes_untrusted(cls, data: bytes) -> Deposit:
        """Raises XdrError only; also for a deposit of another layout than this one."""
        if len(data) > MAX_DEPOSIT:
            raise XdrError(f"a deposit of {len(data)} bytes")
        deposit = _deposit.decode_untrusted(data)
        if deposit.layout != LAYOUT:
            raise XdrError(f"a deposit of layout {deposit.layout}, and {LAYOUT} is known")
        return deposit


@xdr.struct
class KeyState(Struct):
    """UMKTLS_KEYS: how often keys were set, and whether the next are due (see above)."""

    tx_set: Uint
    rx_set: Uint
    tx_due: bool
    rx_due: bool

    def to_bytes(self) -> bytes:
        """The socket option's value."""
        return b"".join(_keys.encode(self))

    @classmethod
    def from_bytes_untrusted(cls, data: bytes) -> KeyState:
        """Raises XdrError only."""
        return _keys.decode_untrusted(data)


_deposit = xdr.codec(Deposit)
_keys = xdr.codec(KeyState)
