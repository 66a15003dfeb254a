"""Who is believed to call, and how a thread acts for that user and comes back."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import needs_root
from tests.nfsd.callers import ANN, ANYBODY, CERTUSER, JOE
from tests.nfsd.client import ROOT, FakePeer, user
from umktls.errors import UnsupportedError
from umktls.nfsd import Export
from umktls.nfsd.program import credentials
from umktls.nfsd.program.credentials import NOBODY, Actor, Identity, believed
from umktls.nfsd.tree import hostcalls
from umktls.rpc.message import AuthSys

OPEN = FakePeer()
CERTIFIED = FakePeer(reserved_port=False)
RESERVED = FakePeer(verified=False)


@pytest.mark.parametrize(
    ("credential", "peer", "options", "expected"),
    [
        (JOE, OPEN, {"squash": "none"}, Identity(1000, 1001, (1002, 0))),
        (JOE, OPEN, {"squash": "root"}, Identity(1000, 1001, (1002, 65534))),
        (JOE, OPEN, {"squash": "all"}, NOBODY),
        (ROOT, OPEN, {"squash": "none"}, Identity(0, 0)),
        (ROOT, OPEN, {"squash": "root"}, NOBODY),
        (ROOT, OPEN, {}, NOBODY),
        (None, OPEN, {"squash": "none"}, NOBODY),
        (JOE, ANYBODY, {"squash": "none"}, NOBODY),
        (JOE, ANYBODY, {"squash": "none", "secure": False}, Identity(1000, 1001, (1002, 0))),
        (JOE, CERTIFIED, {"squash": "none"}, Identity(1000, 1001, (1002, 0))),
        (JOE, RESERVED, {"squash": "none"}, Identity(1000, 1001, (1002, 0))),
        (user(0xFFFFFFFF, 0xFFFFFFFF), OPEN, {"squash": "none"}, NOBODY),
        (user(5, 6, (0xFFFFFFFF,)), OPEN, {"squash": "none"}, Identity(5, 6, (65534,))),
        # The user of the certificate.
        (ROOT, CERTUSER, {"squash": "none"}, Identity(1000, 100, tuple(range(200, 230)))),
        (user(7), CERTUSER, {}, Identity(1000, 100, tuple(range(200, 230)))),
        (user(7), CERTUSER, {"squash": "all"}, NOBODY),
        (user(7), CERTUSER, {"squash": "all", "anonymous": (5, 6, 7)}, Identity(5, 6, (7,))),
        (None, CERTUSER, {}, NOBODY),
        (user(7), replace(CERTUSER, user=ROOT), {}, NOBODY),
        (user(7), replace(CERTUSER, user=ROOT), {"squash": "none"}, Identity(0, 0)),
        (ROOT, ANN, {"anonymous": (5, 6, 7)}, Identity(5, 6, (7,))),
        (user(7, 0), ANN, {"anonymous": (5, 6, 7)}, Identity(7, 6)),
    ],
)
def test_who_is_believed(
    root: Path,
    credential: AuthSys | None,
    peer: FakePeer,
    options: dict[str, object],
    expected: Identity,
) -> None:
    export = Export(str(root), **options)  # type: ignore[arg-type]
    assert believed(export, credential, peer) == expected


def ids() -> tuple[int, int, list[int]]:
    """File system ids and groups of this thread, as the kernel has them."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/thread-self/status").read_text().splitlines()
    )
    uid, gid = (int(status[key].split()[3]) for key in ("Uid", "Gid"))
    return uid, gid, [int(group) for group in status["Groups"].split()]


@needs_root
def test_acting_and_coming_back() -> None:
    actor = Actor()
    before = ids()
    for identity in (Identity(1000, 1001, (1002, 3)), Identity(0, 7, ()), NOBODY):
        with actor.acting(identity):
            assert ids() == (identity.uid, identity.gid, sorted(identity.gids))
        assert ids() == before
        with pytest.raises(KeyError), actor.acting(identity):
            raise KeyError
        assert ids() == before


@needs_root
def test_acting_is_for_the_thread_alone() -> None:
    actor = Actor()
    before = ids()
    seen: list[object] = []
    with actor.acting(Identity(1000, 1001, (1002,))):
        other = threading.Thread(target=lambda: seen.append(ids()))
        mine = ids()
        # A new thread begins with the ids of its maker: what matters is the way back.
        other.start()
        other.join()
    assert seen == [mine]
    assert ids() == before
    with actor.acting(NOBODY):
        pass
    assert ids() == before


@needs_root
def test_root_that_cannot_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_SETUID, setfsuid fails without a sign."""
    monkeypatch.setattr(hostcalls, "setfsuid", lambda uid: 0)
    with pytest.raises(UnsupportedError, match="CAP_SETUID"):
        Actor()


@needs_root
def test_many_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "SWITCHES_LIMIT", 4)
    actor = Actor()
    for uid in [*range(1000, 1010), 1000]:
        with actor.acting(Identity(uid, uid)):
            assert ids() == (uid, uid, [])
        assert len(actor._switches) <= 4
