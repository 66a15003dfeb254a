"""One direction's keys: what a daemon sets and an engine works with."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.session.schedule import traffic_key_iv
from umktls.ktls.session.suites import TLS_1_3, Suite

Direction = Literal["tx", "rx"]


def wipe(secret: bytearray) -> None:
    """Overwrite a secret that is not needed any more."""
    secret[:] = bytes(len(secret))


NONCES = 2**64
SECRETS = ("key", "iv", "mac_key")


@dataclass(frozen=True, slots=True)
class Session:
    """Version, suite, key, IV and the sequence number of the next record.

    `version` is the number on the wire of the handshake, such as 0x0304. `iv` is the implicit part
    of the nonce; `nonce` is the explicit one of the next record that is sent, where records have
    one and somebody has chosen it (it counts up with the sequence number). `mac_key` is for CBC.
    `framing` says whose judgement of record headers is asked for (framing.py). `wraps`: behind
    2^64 - 1 the sequence numbers begin anew. Keys and IV never show in a repr.

    Whoever keeps a session for long keeps it as `kept` makes it, and calls `wipe` at the end. What
    Python cannot overwrite is what it has as bytes on the way (arguments of system calls, what a
    derivation returns) and what OpenSSL has in its own objects, which it clears when they go.
    """

    version: int
    suite: Suite
    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    sequence: int = 0
    mac_key: bytes = field(default=b"", repr=False)
    nonce: int | None = None
    framing: Literal["strict", "freebsd", "linux"] = "strict"
    wraps: bool = False

    def __post_init__(self) -> None:
        if len(self.key) != self.suite.key_length:
            raise CallerError(
                f"a key of {len(self.key)} bytes: {self.suite.name} takes {self.suite.key_length}"
            )
        if not 0 <= self.sequence < 2**64:
            raise CallerError(f"sequence number {self.sequence} does not fit 64 bits")

    def at(self, sequence: int) -> Session:
        """The same session later (or before), when `sequence` is the next record's number."""
        nonce = self.nonce
        if nonce is not None:
            nonce = (nonce + sequence - self.sequence) % NONCES
        return self._copy(self.key, self.iv, self.mac_key, sequence, nonce)

    def kept(self) -> Session:
        """The same, with keys of its own that can be wiped."""
        key, iv, mac_key = map(bytearray, (self.key, self.iv, self.mac_key))
        return self._copy(key, iv, mac_key, self.sequence, self.nonce)

    def _copy(self, key: Any, iv: Any, mac_key: Any, sequence: int, nonce: int | None) -> Session:
        # dataclasses.replace costs several times as much, and each handshake needs some.
        kind, framing = (self.version, self.suite), self.framing
        return Session(*kind, key, iv, sequence, mac_key, nonce, framing, self.wraps)

    def wipe(self) -> None:
        """Overwrite the keys of a session that `kept` has made, and of those made of it by `at`."""
        secret: Any
        for secret in (self.key, self.iv, self.mac_key):
            if secret and isinstance(secret, bytearray):
                wipe(secret)

    @classmethod
    def from_secret(cls, suite: Suite, secret: bytes | bytearray, sequence: int = 0) -> Session:
        """A TLS 1.3 session from its traffic secret (RFC 8446 section 7.3)."""
        key, iv = traffic_key_iv(suite, secret)
        return cls(TLS_1_3, suite, key, iv, sequence)
