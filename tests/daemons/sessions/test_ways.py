"""What ways of a direction refuse: keys that cannot be renewed, objects that do not answer."""

from __future__ import annotations

from typing import Any

import pytest
from umktls_daemons.sessions.handshake import TrafficKeys
from umktls_daemons.sessions.records import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    Ratchet,
    key_update_message,
    seal_record,
)
from umktls_daemons.sessions.ways import (
    BounceReceiving,
    BounceSending,
    ClearSending,
    NoSecondKey,
    PlainReceiving,
    PlainSending,
)
from umktls_daemons.tls.tlsadapter import TlsError

from umktls.errors import PeerError, UnsupportedError
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.userland.libc import Record

SECRET = bytes(range(32))
SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
SESSION = Session.from_secret(SUITE, SECRET)
KEYS = TrafficKeys(SECRET, SECRET, SESSION, SESSION)
UPDATE = Record(HANDSHAKE, key_update_message(request=False))


class OldKernelSocket:
    """Of a kernel that takes no second key."""

    rekeys = False

    def enable_tls(self, direction: str, session: Session) -> None:
        raise AssertionError("it is not asked to")


def nothing_is_sent(request: bool) -> None:
    raise AssertionError("no KeyUpdate went out")


def test_a_kernel_without_a_second_key_says_so_before_a_key_update_goes_out() -> None:
    sock: Any = OldKernelSocket()
    ratchet = Ratchet(SUITE, SECRET)
    with pytest.raises(NoSecondKey, match="no KeyUpdate can be sent"):
        PlainSending(sock, ratchet, nothing_is_sent).renew(request=True)
    with pytest.raises(NoSecondKey, match="the peer has changed its key"):
        PlainReceiving(sock, ratchet).update()
    assert ratchet.secret == SECRET


def test_where_nothing_is_sealed_there_is_no_key_to_renew() -> None:
    with pytest.raises(UnsupportedError, match="nothing is sealed here"):
        ClearSending().renew(request=True)


@pytest.mark.parametrize(
    ("record", "good"),
    [
        (UPDATE, True),
        (Record(HANDSHAKE, b"\x04\x00\x00\x00"), False),
        (Record(APPLICATION_DATA, UPDATE.data), False),
    ],
)
def test_the_object_answers_a_key_update_first(record: Record, good: bool) -> None:
    """Otherwise it is not known under which key it goes on."""
    written: list[bytes] = []
    updates: list[bool] = []
    sending = BounceSending(written.append, KEYS, updates.append)
    sending.answer_update()
    sealed = seal_record(SESSION, record)
    if good:
        sending.flush(sealed)
    else:
        with pytest.raises(PeerError, match="did not answer the peer's KeyUpdate"):
            sending.flush(sealed)
    assert written == [sealed] * good
    assert updates == [False] * good


class Failing:
    """An SSL object that takes a record for the end."""

    def feed(self, data: bytes) -> None: ...

    def read(self) -> bytes:
        raise TlsError("the object does not go on")


@pytest.mark.parametrize("type_", [ALERT, APPLICATION_DATA, HANDSHAKE])
def test_only_an_alert_says_more_than_the_objects_error(type_: int) -> None:
    endpoint: Any = Failing()
    record = Record(type_, b"\x02\x28")
    receiving = BounceReceiving(KEYS)
    if type_ == ALERT:
        assert receiving.read(endpoint, seal_record(SESSION, record)) == record
    else:
        with pytest.raises(TlsError, match="does not go on"):
            receiving.read(endpoint, seal_record(SESSION, record))
