"""Names: what DNS gives for an address, and what a certificate is for."""

from __future__ import annotations

import socket
import threading

import pytest
from umktls_daemons.tls.hostnames import Wildcards, has_name, is_address, reverse_name

from tests.tlsworld import AUTHORITY
from umktls.certs.pki import Leaf
from umktls.userland.streams import Deadline

NONE, SINGLE, MULTI = Wildcards.NONE, Wildcards.SINGLE, Wildcards.MULTI


@pytest.mark.parametrize(
    ("name", "host", "enough"),
    [
        ("a.example.org", "a.example.org", (NONE, SINGLE, MULTI)),
        ("A.Example.ORG", "a.example.org.", (NONE, SINGLE, MULTI)),
        ("*.example.org", "a.example.org", (SINGLE, MULTI)),
        ("*.example.org", "b.a.example.org", (MULTI,)),
        ("*.example.org", "example.org", ()),
        ("*.example.org", ".example.org", ()),
        ("*.example.org", "a.example.com", ()),
        ("*.org", "example.org", ()),
        ("*", "localhost", ()),
        ("a*.example.org", "ab.example.org", ()),
        ("a.*.org", "a.example.org", ()),
        ("a.example.org", "b.example.org", ()),
        ("example.org", "a.example.org", ()),
    ],
)
def test_matching(name: str, host: str, enough: tuple[Wildcards, ...]) -> None:
    certificate = AUTHORITY.leaf(Leaf("somebody", ("192.0.2.1", name))).certificate
    assert tuple(kind for kind in Wildcards if has_name(certificate, host, kind)) == enough


def test_the_subject_does_not_count() -> None:
    for hosts in ((), ("192.0.2.1",)):
        certificate = AUTHORITY.leaf(Leaf("a.example.org", hosts)).certificate
        assert not has_name(certificate, "a.example.org")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("localhost", False),
        ("1.2.3", False),
        ("", False),
    ],
)
def test_addresses(text: str, address: bool) -> None:
    assert is_address(text) is address


def test_reverse_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def lookup(address: tuple[str, int], flags: int) -> tuple[str, str]:
        asked.append(address[0])
        assert flags == socket.NI_NAMEREQD
        if address[0] == "192.0.2.9":
            raise socket.gaierror(socket.EAI_NONAME)
        return "host.example.org", "0"

    monkeypatch.setattr(socket, "getnameinfo", lookup)
    assert reverse_name("192.0.2.1", Deadline.after(20)) == "host.example.org"
    assert reverse_name("fe80::1%eth0", Deadline.after(20)) == "host.example.org"
    assert reverse_name("192.0.2.9", Deadline.after(20)) == ""
    assert asked == ["192.0.2.1", "fe80::1", "192.0.2.9"]


def test_a_resolver_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def lookup(address: tuple[str, int], flags: int) -> tuple[str, str]:
        answered.wait(20)
        return "host.example.org", "0"

    monkeypatch.setattr(socket, "getnameinfo", lookup)
    try:
        assert reverse_name("192.0.2.1", Deadline.after(0.1)) == ""
    finally:
        answered.set()


def test_no_reverse_name_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows then how long it would take."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(socket, "getnameinfo", lambda address, flags: ("host.example.org", "0"))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert reverse_name("192.0.2.1", Deadline.after(20)) == ""
