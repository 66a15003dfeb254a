"""The certificates directory: what is made, with which modes, and what is said when it is wrong."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from tests.conftest import patience
from umktls.certs import layout
from umktls.certs.revocation import revoke
from umktls.errors import CallerError, WorldError

NAMES = {
    "ca.pem",
    "cakey.pem",
    *(f"{r}/{f}.pem" for r in ("server", "client") for f in ("cert", "certkey")),
}


def test_create_makes_the_layout_with_private_keys(tmp_path: Path) -> None:
    paths = layout.create(tmp_path / "new" / "pki")
    assert {str(p.relative_to(tmp_path / "new" / "pki")) for p in paths} == NAMES
    for path in paths:
        private = path.name in ("cakey.pem", "certkey.pem")
        assert path.stat().st_mode & 0o777 & (0o077 if private else 0o022) == 0
        assert (b"PRIVATE KEY" in path.read_bytes()) is private


def test_openssl_accepts_both_parts(tmp_path: Path) -> None:
    layout.create(tmp_path)
    for role, purpose in (("server", "sslserver"), ("client", "sslclient")):
        part = layout.find(tmp_path, "server" if role == "server" else "client")
        command = ["openssl", "verify", "-purpose", purpose, "-CAfile", str(part.ca)]
        if role == "server":
            command += ["-verify_hostname", "localhost", "-verify_ip", "127.0.0.1"]
        done = subprocess.run(
            [*command, str(part.certificate)],
            capture_output=True,
            text=True,
            timeout=patience(30),
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_create_refuses_to_overwrite_before_it_writes(tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "certkey.pem").write_text("mine")
    with pytest.raises(CallerError, match="exists already") as caught:
        layout.create(tmp_path)
    assert caught.value.errno == errno.EEXIST
    assert not (tmp_path / "ca.pem").exists()
    layout.create(tmp_path, force=True)
    key = tmp_path / "client" / "certkey.pem"
    assert b"PRIVATE KEY" in key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["", "a b", "müller.example", "\x1b[31m", "-a", "a..b", "x\udcff"])
def test_what_cannot_be_a_host_is_said_before_anything_is_written(
    tmp_path: Path, host: str
) -> None:
    with pytest.raises(CallerError, match="is neither an address nor a name"):
        layout.create(tmp_path / "pki", (*layout.LOCAL_HOSTS, host))
    assert not (tmp_path / "pki").exists()


@pytest.mark.parametrize("user", ["", "ada", "ada@", "ada@b@c", "a\x1b@b", "a@\udcff"])
def test_what_cannot_be_a_user_is_said(tmp_path: Path, user: str) -> None:
    with pytest.raises(CallerError, match="is not NAME@DOMAIN"):
        layout.create(tmp_path / "pki", user=user)


def test_hosts_of_all_kinds(tmp_path: Path) -> None:
    hosts = ("nfs", "a.example.", "*.example.org", "192.0.2.1", "2001:db8::1", "xn--mller-kva.de")
    assert layout.create(tmp_path / "pki", hosts, user="ada@example.org")


def test_create_below_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorldError, match=r"cannot write .*file/pki/ca.pem"):
        layout.create(tmp_path / "file" / "pki")


def test_find_names_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=r"ca.pem is missing: `umktls certs ") as caught:
        layout.find(tmp_path, "client")
    assert caught.value.errno == errno.ENOENT
    layout.create(tmp_path)
    (tmp_path / "client" / "certkey.pem").unlink()
    with pytest.raises(CallerError, match=r"client/certkey.pem is missing"):
        layout.find(tmp_path, "client")
    assert layout.find(tmp_path, "client", own=False).ca == tmp_path / "ca.pem"


def test_find_says_what_it_cannot_read(tmp_path: Path) -> None:
    layout.create(tmp_path)
    (tmp_path / "server" / "cert.pem").unlink()
    (tmp_path / "server" / "cert.pem").mkdir()
    with pytest.raises(
        CallerError, match=r"cannot read .*server/cert.pem: Is a directory"
    ) as caught:
        layout.find(tmp_path, "server")
    assert caught.value.errno == errno.EISDIR


def test_a_directory_that_is_made_is_closed_to_others(tmp_path: Path) -> None:
    layout.create(tmp_path / "pki")
    for part in ("", "server", "client"):
        assert (tmp_path / "pki" / part).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("part", ["pki", "pki/server"])
def test_create_follows_nobody_elses_link(tmp_path: Path, part: str) -> None:
    """In /tmp another user may have been there first."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / part).parent.mkdir(exist_ok=True)
    (tmp_path / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CallerError, match=f"{part}: it is a symbolic link; name ano") as caught:
        layout.create(tmp_path / "pki")
    assert caught.value.errno == errno.EPERM
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_create_and_revoke_where_others_can_write(tmp_path: Path) -> None:
    layout.create(tmp_path / "pki")
    (tmp_path / "pki").chmod(0o777)
    with pytest.raises(CallerError, match=r"others can write to it \(mode 0777\)"):
        layout.create(tmp_path / "pki", force=True)
    with pytest.raises(CallerError, match=r"others can write to it \(mode 0777\)"):
        revoke(tmp_path / "pki", ["client"])


def test_a_link_in_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    """And not written through."""
    (tmp_path / "precious").write_text("kept")
    layout.create(tmp_path / "pki")
    for name in ("cakey.pem", "ca.pem"):
        (tmp_path / "pki" / name).unlink()
        (tmp_path / "pki" / name).symlink_to(tmp_path / "precious")
    layout.create(tmp_path / "pki", force=True)
    (tmp_path / "pki" / "crl.pem").symlink_to(tmp_path / "precious2")
    revoke(tmp_path / "pki")
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "precious2").exists()
    assert not (tmp_path / "pki" / "crl.pem").is_symlink()
