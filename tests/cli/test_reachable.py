"""By which name clients can mount, whatever the server was told to listen on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from umktls.certs import layout
from umktls.certs.pki import Authority, Leaf
from umktls.cli import reachable
from umktls.cli.reachable import reachable_name

# What the names lead to here; only those below 127 and ::1 are this machine's.
ADDRESSES = {
    "localhost": ["127.0.0.1", "::1"],
    "nfs.example.org": ["127.0.0.9"],
    "elsewhere.example.org": ["192.0.2.1"],
    "this-machine": ["127.0.1.1"],
}


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str, port: None, **more: int) -> list[tuple[object, ...]]:
        if name not in ADDRESSES and reachable.address_of(name) is None:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(0, 0, 0, "", (each, 0)) for each in ADDRESSES.get(name, [name])]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "gethostname", lambda: "this-machine")
    monkeypatch.setattr(
        reachable, "is_local", lambda address: address.is_loopback or str(address) == "10.0.0.7"
    )


def certificate(directory: Path, *hosts: str) -> Path:
    path = directory / "cert.pem"
    path.write_bytes(Authority.create().leaf(Leaf("server", hosts)).certificate_pem())
    return path


USUAL = ("localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("hosts", "names", "name"),
    [
        # What was named is in the certificate.
        (("localhost",), USUAL, "localhost"),
        (("::1",), USUAL, "::1"),
        (("0:0::1",), USUAL, "0:0::1"),
        (("NFS.example.org",), ("nfs.example.org",), "NFS.example.org"),
        (("127.0.0.9", "localhost"), USUAL, "localhost"),
        # All addresses: a name for other machines rather than one for this only.
        (("0.0.0.0",), USUAL, "localhost"),
        (("::",), USUAL, "localhost"),
        (("0.0.0.0",), (*USUAL, "nfs.example.org"), "nfs.example.org"),
        (("::",), (*USUAL, "10.0.0.7"), "10.0.0.7"),
        (("::", "0.0.0.0"), ("*.example.org", "elsewhere.example.org", *USUAL), "localhost"),
        # A name in the certificate that leads to what was named.
        (("127.0.0.9",), (*USUAL, "nfs.example.org"), "nfs.example.org"),
    ],
)
def test_a_name_in_the_certificate_that_leads_here(
    tmp_path: Path, hosts: tuple[str, ...], names: tuple[str, ...], name: str
) -> None:
    assert reachable_name(hosts, certificate(tmp_path, *names)) == (name, None)


@pytest.mark.parametrize(
    ("hosts", "names", "name", "advice"),
    [
        (("127.0.0.9",), USUAL, "127.0.0.9", "--host 127.0.0.9"),
        (("0.0.0.0",), ("elsewhere.example.org", "nowhere"), "localhost", "--host NAME"),
        (("0.0.0.0",), (), "localhost", "--host NAME"),
    ],
)
def test_where_no_name_leads_here_that_is_said(
    tmp_path: Path, hosts: tuple[str, ...], names: tuple[str, ...], name: str, advice: str
) -> None:
    found, warning = reachable_name(hosts, certificate(tmp_path, *names))
    assert found == name
    assert warning is not None
    assert f"clients will refuse it: make one with `umktls certs DIR {advice}`" in warning


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (("0.0.0.0",), "this-machine"),
        (("::",), "this-machine"),
        (("0.0.0.0", "nfs.example.org"), "nfs.example.org"),
    ],
)
def test_without_certificates_any_name_will_do(hosts: tuple[str, ...], name: str) -> None:
    assert reachable_name(hosts, None) == (name, None)


def test_a_certificate_that_cannot_be_read_is_for_the_daemon_to_complain_of(
    tmp_path: Path,
) -> None:
    assert reachable_name(("localhost",), tmp_path / "nothing")[0] == "localhost"


def test_the_usual_certificates(tmp_path: Path) -> None:
    layout.create(tmp_path / "pki", (*layout.LOCAL_HOSTS, "nfs.example.org"))
    path = layout.find(tmp_path / "pki", "server").certificate
    assert reachable_name(("::",), path) == ("nfs.example.org", None)
