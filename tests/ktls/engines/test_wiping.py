"""Keys that are not needed any more are overwritten where they were kept."""

from __future__ import annotations

import dataclasses

import pytest
from umktls_daemons.sessions.records import Ratchet

from umktls.abi.personality import personality
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import get_engine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import SUITES

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
SECRET = bytes(range(32))


def is_wiped(session: Session) -> bool:
    return not any(session.key) and not any(session.iv)


def test_what_is_kept_is_a_copy_and_can_be_wiped() -> None:
    given = Session.from_secret(SUITE, SECRET)
    kept = given.kept()
    assert kept == given
    assert kept.at(7).key is kept.key
    kept.wipe()
    assert is_wiped(kept)
    assert is_wiped(kept.at(7))
    assert not is_wiped(given)
    assert len(kept.key) == SUITE.key_length


def test_a_copy_has_all_that_the_session_has() -> None:
    given = {
        "version": "1.2",
        "suite": SUITE,
        "key": b"k" * 16,
        "iv": b"i" * 4,
        "sequence": 5,
        "mac_key": b"m" * 20,
        "nonce": 9,
        "framing": "linux",
        "wraps": True,
    }
    assert given.keys() == {field.name for field in dataclasses.fields(Session)}
    session = Session(**given)  # type: ignore[arg-type]
    assert session.kept() == session
    assert session.at(7) == dataclasses.replace(session, sequence=7, nonce=11)


@pytest.mark.parametrize("which", ["tx", "rx"])
def test_a_socket_forgets_its_old_keys(which: Direction) -> None:
    engine = get_engine("software")
    state = KtlsSocket(engine, engine, personality("umktls"))
    state.install(which, Session.from_secret(SUITE, SECRET))
    first = state.session(which)
    assert first is not None
    assert not is_wiped(first)
    state.install(which, Session.from_secret(SUITE, bytes(32)))
    second = state.session(which)
    assert second is not None
    assert (is_wiped(first), is_wiped(second)) == (True, False)
    state.close()
    assert is_wiped(second)


def test_a_traffic_secret_is_overwritten_by_the_next() -> None:
    ratchet = Ratchet(SUITE, SECRET)
    first = ratchet._secret
    keys = ratchet.turn()
    assert not any(first)
    assert keys == Session.from_secret(SUITE, ratchet.secret)
    assert ratchet.secret != SECRET
    second = ratchet._secret
    ratchet.wipe()
    assert not any(second)
