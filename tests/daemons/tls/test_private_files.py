"""Key logs and pid files: what others may have put where they are to be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from umktls_daemons.programs.background import PidFile, PidFileError
from umktls_daemons.tls import identity
from umktls_daemons.tls.identity import ConfigurationError
from umktls_daemons.tls.keylog import KeyLogFile

from tests.descriptors import descriptors
from umktls.ktls.session import session

LINE = b"CLIENT_TRAFFIC_SECRET_0 00 11"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory like /tmp, with something that must not be touched."""
    (tmp_path / "precious").write_text("kept")
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_a_key_log_is_closed_to_others(shared: Path, before: int | None) -> None:
    path = shared / "keys"
    if before is not None:
        path.touch()
        path.chmod(before)
    log = KeyLogFile(path)
    assert mode(path) == 0o600
    log(LINE)
    log.close()
    assert path.read_bytes() == LINE + b"\n"


def test_a_key_log_is_closed(shared: Path) -> None:
    before = descriptors()
    KeyLogFile(shared / "keys").close()
    assert descriptors() <= before


def test_a_key_log_by_a_link(shared: Path) -> None:
    (shared / "keys").symlink_to("../precious")
    with pytest.raises(ConfigurationError, match=r"key log .*/keys: it is a symbolic link"):
        KeyLogFile(shared / "keys")
    assert (shared.parent / "precious").read_text() == "kept"


def test_a_key_log_that_somebody_else_has_made(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "keys").touch()
    (shared / "keys").chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(ConfigurationError, match="keys: it belongs to the user") as told:
        KeyLogFile(shared / "keys")
    assert told.value.errno == errno.EPERM


def test_a_pid_file_is_as_those_of_freebsd(shared: Path) -> None:
    first = descriptors()
    with PidFile(shared / "pid") as file:
        before = descriptors()
        with pytest.raises(PidFileError, match="already running") as caught:
            PidFile(shared / "pid")
        assert descriptors() <= before, caught
        file.write()
        assert (shared / "pid").read_text() == f"{os.getpid()}\n"
        assert mode(shared / "pid") == 0o600
    assert not (shared / "pid").exists()
    assert descriptors() <= first


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_pid_file_that_is_another_file(shared: Path, kind: str) -> None:
    if kind == "symbolic":
        (shared / "pid").symlink_to("../precious")
    else:
        (shared / "pid").hardlink_to(shared.parent / "precious")
    with pytest.raises(PidFileError, match=r"pid file .*/pid: it (is a symbolic link|has 2 names)"):
        PidFile(shared / "pid")
    assert (shared.parent / "precious").read_text() == "kept"


def test_what_a_key_is_read_into_is_wiped(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's bytes, and what they were read by."""
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (shared / "key.pem").write_bytes(pem)
    wiped: list[tuple[bytes, bytearray]] = []

    def wipe(data: bytearray) -> None:
        wiped.append((bytes(data), data))
        session.wipe(data)

    monkeypatch.setattr(identity, "wipe", wipe)
    identity.load_private_key(shared / "key.pem", lambda: b"")
    assert len(wiped) == 2
    assert all(before.startswith(pem) and not any(data) for before, data in wiped)
