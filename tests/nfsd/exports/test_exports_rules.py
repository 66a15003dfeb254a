"""Rules about clients: addresses, CAs, names, fingerprints."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from tests.nfsd.callers import ANN, digest
from tests.nfsd.client import FakePeer
from umktls.certs.pki import Authority
from umktls.errors import CallerError
from umktls.nfsd.exports.exports import Export, least_security, level_of, overlaps
from umktls.nfsd.exports.rules import Rules, ca_fingerprints, fingerprint, name_pattern
from umktls.rpc.message import AuthSys

PLAIN = FakePeer(verified=False)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("ws1.example.org", True),
        ("DNS:WS1.example.ORG", True),
        ("*.example.org", True),
        ("ws*.example.org", True),
        ("*", True),
        ("*.example.com", False),
        ("example.org", False),
        ("s1.example.org", False),
        ("ws1.example.or", False),
        ("ws1xexample.org", False),
        ("email:ann@example.org", True),
        ("email:*@example.org", True),
        ("email:*@*", True),
        ("email:*", False),
        ("email:*example.org", False),
        ("EMAIL:ann@example.org", True),
        ("IP:192.0.2.7", True),
        ("IP:192.0.2.*", True),
        ("IP:192.0.2.8", False),
        ("URI:spiffe://example/*", True),
        ("URI:spiffe://example/ann", False),
        ("DNS:ann@example.org", False),
    ],
)
def test_names(pattern: str, fits: bool) -> None:
    objection = Rules(names=(name_pattern(pattern),)).objection(ANN)
    assert (objection is None) is fits
    if objection:
        assert "CN=ann" in objection


def test_one_of_each_kind_must_be_met() -> None:
    good = Rules(
        authorities=frozenset({digest("another CA"), digest("root CA")}),
        names=(name_pattern("*.example.com"), name_pattern("email:*@example.org")),
        fingerprints=frozenset({digest("ann"), digest("bob")}),
    )
    assert good.objection(ANN) is None
    for worse in (
        replace(good, authorities=frozenset({digest("another CA")})),
        replace(good, names=(name_pattern("*.example.com"),)),
        replace(good, fingerprints=frozenset({digest("bob")})),
    ):
        assert worse.objection(ANN) is not None


def test_who_shows_no_certificate_meets_no_rule_about_one() -> None:
    for rules in (
        Rules(names=("DNS:*",)),
        Rules(authorities=frozenset({digest("CA")})),
        Rules(fingerprints=frozenset({digest("ann")})),
    ):
        assert rules.about_certificates
        assert "shown none" in (rules.objection(PLAIN) or "")


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("192.0.2.1", True),
        ("192.0.2.255", True),
        ("192.0.3.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("local", False),
    ],
)
def test_addresses(address: str, fits: bool) -> None:
    rules = Rules(
        (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("fe80::/64"))
    )
    assert not rules.about_certificates
    peer = FakePeer(address=(address, 700), verified=False)
    assert (rules.objection(peer) is None) is fits


@pytest.mark.parametrize("text", ["", "DNS:", "email:", "mail:ann@example.org", "DNS:a:b"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(CallerError, match="no pattern"):
        name_pattern(text)


HEX = digest("ann").hex()


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        HEX.upper(),
        f"SHA256:{HEX}",
        "sha256 Fingerprint=" + ":".join(HEX[i : i + 2] for i in range(0, 64, 2)).upper(),
    ],
)
def test_fingerprints(text: str) -> None:
    assert fingerprint(text) == digest("ann")


@pytest.mark.parametrize("text", ["", "zz", HEX[:-2], HEX + "00", "SHA1:" + HEX])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(CallerError, match="no SHA-256 fingerprint"):
        fingerprint(text)


def test_ca_files(tmp_path: Path) -> None:
    authorities = [Authority.create(name) for name in ("one", "two")]
    path = tmp_path / "cas.pem"
    path.write_bytes(b"# ours\n" + b"\n".join(a.certificate_pem() for a in authorities))
    expected = {a.certificate.fingerprint(hashes.SHA256()) for a in authorities}
    assert ca_fingerprints(path) == expected
    path.write_text("nothing")
    with pytest.raises(CallerError, match="no PEM certificate in it"):
        ca_fingerprints(path)
    path.write_text("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")
    with pytest.raises(CallerError, match="not a PEM file"):
        ca_fingerprints(path)
    path.write_bytes(b"\xff\xfe")  # comments may be in any encoding
    with pytest.raises(CallerError, match="no PEM certificate in it"):
        ca_fingerprints(path)
    with pytest.raises(CallerError, match="No such file"):
        ca_fingerprints(tmp_path / "missing")


# What exports make of them.


def test_levels(tmp_path: Path) -> None:
    user = AuthSys(0, b"", 1000, 100, ())
    clear, ann, certuser = FakePeer(tls=False, verified=False), ANN, FakePeer(user=user)
    assert [level_of(peer) for peer in (clear, PLAIN, ann, certuser)] == [0, 1, 2, 3]
    exports = [
        Export(str(tmp_path)),
        Export(str(tmp_path), security="tls"),
        Export(str(tmp_path), security="mtls"),
        Export(str(tmp_path), security="certuser"),
        Export(str(tmp_path), security="tls", rules=Rules(names=("DNS:*",))),
        Export(str(tmp_path), rules=Rules((ip_network("192.0.2.0/24"),))),
    ]
    assert [export.level for export in exports] == [0, 1, 2, 3, 2, 0]
    assert [export.guarded for export in exports] == [False, True, True, True, True, True]
    assert "asks for certuser" in (exports[3].objection(ann) or "")
    assert exports[3].objection(certuser) is None
    assert least_security(exports[2:4]) == "mtls"
    assert least_security([exports[3]]) == "certuser"
    assert least_security([]) == "none"


def test_exports_within_weaker_ones(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    outer = Export(str(tmp_path), "/outer", security="tls")
    strict = Export(str(inner), "/inner", security="mtls")
    (warning,) = overlaps([strict, outer])
    assert warning.startswith("/inner lies in /outer and asks for more")
    assert overlaps([outer, Export(str(inner), security="tls")]) == []
    assert overlaps([outer, Export(str(inner))]) == []
    assert len(overlaps([outer, Export(str(inner), rules=Rules(names=("DNS:*",)))])) == 1


@pytest.mark.parametrize(
    ("options", "stricter"),
    [
        ({"read_only": True}, "is read-only"),
        ({"squash": "all"}, "squashes more"),
        ({"secure": True}, "believes less (no -insecure)"),
        ({"security": "tls", "read_only": True}, "asks for more, is read-only"),
    ],
)
def test_exports_within_others_that_allow_more(
    tmp_path: Path, options: dict[str, Any], stricter: str
) -> None:
    """What may not be written, or not as root, may by the handles of the outer one."""
    inner = tmp_path / "inner"
    inner.mkdir()
    weak: dict[str, Any] = {"read_only": False, "squash": "root", "secure": False}
    outer = Export(str(tmp_path), "/outer", **weak)
    (warning,) = overlaps([outer, Export(str(inner), "/inner", **weak | options)])
    assert warning == (
        f"/inner lies in /outer and {stricter}: who may use /outer gets there without"
    )
    assert overlaps([Export(str(tmp_path), **weak | options), Export(str(inner), **weak)]) == []
