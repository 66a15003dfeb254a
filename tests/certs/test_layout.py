"""The certificates directory: what is made, with which modes, and what is said when it is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.conftest import patience
from umktls.certs import layout
from umktls.certs.pki import Authority
from umktls.certs.revocation import revoke, revoked_serials
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


def at_once(*functions: Callable[[], object]) -> list[CallerError | None]:
    """What each of them came to, when all begin at the same moment."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], object]) -> CallerError | None:
        barrier.wait(patience(30))
        try:
            function()
        except CallerError as error:
            return error
        return None

    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(call, functions))


def assert_of_one_ca(directory: Path) -> None:
    ca = Authority.load((directory / "ca.pem").read_bytes(), (directory / "cakey.pem").read_bytes())
    for role in ("server", "client"):
        pem = (directory / role / "cert.pem").read_bytes()
        key = load_pem_private_key((directory / role / "certkey.pem").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(pem)
        assert key.public_key() == certificate.public_key()
        certificate.verify_directly_issued_by(ca.certificate)


@pytest.mark.parametrize("force", [False, True])
def test_what_is_made_twice_at_once_belongs_together(tmp_path: Path, force: bool) -> None:
    pki = tmp_path / "pki"
    came_to = at_once(*[lambda: layout.create(pki, force=force)] * 4)
    assert came_to.count(None) == (4 if force else 1)
    assert {error.errno for error in came_to if error} <= {errno.EEXIST}
    assert_of_one_ca(pki)
    assert {str(path.relative_to(pki)) for path in pki.rglob("*.pem*")} == NAMES


def test_what_is_revoked_at_once_is_all_in_the_list(tmp_path: Path) -> None:
    layout.create(tmp_path)
    for _ in range(4):
        (tmp_path / "crl.pem").unlink(missing_ok=True)
        roles: tuple[layout.Role, ...] = ("server", "client")
        at_once(*[partial(revoke, tmp_path, [role]) for role in roles])
        assert len(revoked_serials(tmp_path / "crl.pem")) == 2


def test_where_the_disk_is_full_the_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA without the certificates that it has signed would be of no use."""
    layout.create(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    write_beside = layout._write_beside

    def full(path: Path, content: bytes, mode: int) -> Path:
        if path.parent.name == "client":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_beside(path, content, mode)

    monkeypatch.setattr(layout, "_write_beside", full)
    with pytest.raises(WorldError, match=r"cannot write .*client/cert.pem: No space left"):
        layout.create(tmp_path, force=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("file/pki", errno.ENOTDIR),
        ("file/deep/pki", errno.ENOTDIR),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_where_no_directory_can_be(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match=f"cannot write .*{os.strerror(number)}"):
        layout.create(tmp_path / name)


def test_where_this_user_may_not_look(tmp_path: Path) -> None:
    """It was a traceback."""
    (tmp_path / "closed").mkdir(mode=0)
    code = "import sys; from umktls.cli.main import main; main(['certs', sys.argv[1]])"
    command = [sys.executable, "-c", code, str(tmp_path / "closed" / "pki")]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(30), check=False
    )
    said = f"umktls: cannot write {tmp_path}/closed/pki: Permission denied\n"
    assert (done.returncode, done.stderr) == (1, said)


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
    with pytest.raises(WorldError, match=r"cannot write .*file/pki: Not a directory"):
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
