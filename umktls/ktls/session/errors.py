"""What can go wrong with a record or with a KTLS socket, each with the errno that a kernel gives.

`fatal` on a receive error says that nothing behind it can be read: where a header is wrong, nobody
knows where the next one is. FreeBSD drops the connection then; a record that merely does not open
is thrown away, and the next one is read as if nothing had happened (ktls_decrypt of uipc_ktls.c).

`alert` is what RFC 8446 has the peer told; None where nobody is there to be told.
"""

from __future__ import annotations

import errno

from umktls.abi.alerts import TlsAlert
from umktls.errors import PeerError, UmktlsError, WorldError

# Where the two sides do not agree on what comes behind the handshake, this is the likely cause.
NULL_ON_ONE_SIDE = (
    "has one side alone engine null, and clear text behind the handshake? Both need it, or neither"
)


class RecordError(PeerError):
    """A TLS record that cannot be delivered. Only the subclasses are raised. `alert`: another one
    than the class's."""

    fatal = True
    alert: TlsAlert | None = TlsAlert.BAD_RECORD_MAC

    def __init__(
        self, text: str, errno: int | None = None, *, alert: TlsAlert | None = None
    ) -> None:
        super().__init__(text, errno)
        if alert is not None:
            self.alert = alert


class RecordInClear(RecordError):
    """EINVAL: sealed data where a kernel without KERN_TLS takes clear text (engine null). Ours."""

    default_errno = errno.EINVAL
    alert = TlsAlert.UNEXPECTED_MESSAGE


class BadRecord(RecordError):
    """EBADMSG: tag, MAC, padding or inner type wrong (RFC 8446 sections 5.2 and 5.4)."""

    fatal = False


class RecordVersion(RecordError):
    """EINVAL: not the session's version, or TLS 1.3 with an outer type that is not 23."""

    default_errno = errno.EINVAL
    alert = TlsAlert.PROTOCOL_VERSION


class RecordInterleaved(RecordError):
    """EINVAL: another type of record in the middle of a handshake message (RFC 8446 section 5.1).
    No kernel looks; this is ours."""

    default_errno = errno.EINVAL
    alert = TlsAlert.UNEXPECTED_MESSAGE


class RecordSize(RecordError):
    """EMSGSIZE: shorter or longer than any record may be (RFC 8446 sections 5.1 and 5.2)."""

    default_errno = errno.EMSGSIZE
    alert: TlsAlert | None = TlsAlert.RECORD_OVERFLOW


class RecordTooShort(RecordError):
    """EBADMSG: a length that has no room for the tag, as Linux says it."""


class RecordMisfit(RecordError):
    """EMSGSIZE: too short for its tag or MAC, or no whole number of blocks, as FreeBSD says it
    when it comes to decrypting: the record is lost, the connection is not."""

    fatal = False
    default_errno = errno.EMSGSIZE


class RecordTruncated(RecordSize):
    """EMSGSIZE: the stream ended inside a record."""

    alert = None


class WouldBlock(UmktlsError):
    """EAGAIN: nothing to read yet."""

    default_errno = errno.EAGAIN


class KeyExpired(UmktlsError):
    """EKEYEXPIRED: the peer has announced a new key (KeyUpdate) and it has not been set yet."""

    default_errno = errno.EKEYEXPIRED


class SealFailed(WorldError):
    """EIO, in Linux EBADMSG: the engine could not make a record; nothing of it was sent."""


class KeyExhausted(WorldError):
    """EBADMSG: the sequence numbers are used up; sealing one more record would repeat a nonce."""

    default_errno = errno.EBADMSG
