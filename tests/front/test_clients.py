"""The file of clients: who comes in, and with what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from umktls.front.clients import parse_clients, read_clients
from umktls.nfsd.exports.file import ExportsFileError
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import AuthSys


@dataclass
class Played:
    """A connection."""

    address: Any = ("192.0.2.1", 1000)
    tls: bool = True
    verified: bool = False
    certificate: PeerCertificate | None = None
    reserved_port: bool = False
    user: AuthSys | None = None

    def refused(self, what: str, why: str) -> None:
        raise AssertionError


def shown(*names: bytes, address: str = "192.0.2.1") -> Played:
    certificate = PeerCertificate(bytes(32), b"CN=one", b"CN=CA", b"1", names, (b"a" * 32,))
    return Played((address, 1000), verified=True, certificate=certificate)


CLEAR = Played(tls=False)


@pytest.mark.parametrize(
    ("text", "peer", "why"),
    [
        ("192.0.2.0/24", Played(), None),
        ("192.0.2.0/24", CLEAR, "tls is asked for"),
        ("192.0.2.0/24 -clear", CLEAR, None),
        ("-clear\n192.0.2.0/24", CLEAR, None),
        ("-tls", CLEAR, "tls is asked for"),
        ("-tlscert", Played(), "mtls is asked for"),
        ("-tlscert", shown(), None),
        ("-email=*@example.org", Played(), "mtls is asked for"),
        ("-email=*@example.org", shown(), "no name that the export is for"),
        ("-email=*@example.org", shown(b"email:a@example.org"), None),
        ("203.0.113.0/24", Played(), "no rule is for its address"),
        ("-network 203.0.113.0 -mask 255.255.255.0", Played(), "no rule is for its address"),
        ("-fingerprint=" + "00" * 32, shown(), None),
        ("-fingerprint=" + "11" * 32, shown(), "none of those"),
        # Whoever is in one line need not be in the other.
        ("-tlscert\n192.0.2.1 -tls", Played(), None),
        ("203.0.113.1 -clear\n-tlscert # all others", CLEAR, "mtls is asked for"),
    ],
)
def test_rules(text: str, peer: Played, why: str | None) -> None:
    objection = parse_clients(text, "f").objection(peer)
    assert objection is None if why is None else why in (objection or "")


@pytest.mark.parametrize(
    ("text", "security"),
    [("-tls", "tls"), ("-tlscert", "mtls"), ("-san=*.org\n-tls", "tls"), ("-clear", "none")],
)
def test_what_all_have_to_bring(text: str, security: str) -> None:
    assert parse_clients(text, "f").security == security


def test_whose_address_is_in_a_line() -> None:
    clients = parse_clients("192.0.2.0/24 2001:db8::/32", "f")
    assert clients.knows(("2001:db8::1", 1000, 0, 0))
    assert not clients.knows(("203.0.113.1", 1000))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\n/srv -tls", "f:2: /srv: which directories are served is said at the backend"),
        ("-ro", "f:1: there is no option -ro; there are -ca, -clear,"),
        ("-maproot=root", "f:1: there is no option -maproot"),
        ("-clear -tls", "f:1: -clear, and something that only TLS brings"),
        ("-clear -san=*.org", "f:1: -clear, and something that only TLS brings"),
        ("# nobody\n", "f: it lets nobody in"),
        ("-mask 255.0.0.0", "f:1: -mask without -network"),
        ("'half", "f:1: No closing quotation"),
    ],
)
def test_mistakes(text: str, error: str) -> None:
    with pytest.raises(ExportsFileError) as caught:
        parse_clients(text, "f")
    assert error in str(caught.value)


def test_no_file(tmp_path: Any) -> None:
    with pytest.raises(ExportsFileError, match="clients: No such file"):
        read_clients(tmp_path / "clients")
