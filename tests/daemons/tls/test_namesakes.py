"""Two CAs of the same name: what tells them apart is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from umktls_daemons.tls.failure import VerifyProblem, verify_failure

from umktls.certs.pki import Authority, Leaf


def reason(code: int, signer: Authority, trust: Path | str) -> str:
    leaf = x509.load_pem_x509_certificate(signer.leaf(Leaf("server")).certificate_pem())
    problem = VerifyProblem(code, "text", 0, leaf)
    return verify_failure(problem, of_server=True, trust=str(trust)).reason


@pytest.mark.parametrize("code", [2, 7, 20, 21, 30])
def test_fingerprints_of_another_ca_of_the_name_are_shown(tmp_path: Path, code: int) -> None:
    known, signer = Authority.create("the CA"), Authority.create("the CA")
    trust = tmp_path / "ca.pem"
    trust.write_bytes(known.certificate_pem())
    said = reason(code, signer, trust)
    for authority, seen in ((known, True), (signer, False)):
        fingerprint = authority.certificate.fingerprint(hashes.SHA256()).hex(":")
        assert (fingerprint in said) is seen
        key = x509.SubjectKeyIdentifier.from_public_key(authority.certificate.public_key())
        assert key.digest.hex(":") in said


@pytest.mark.parametrize("code", [18, 19])
def test_fingerprints_of_both_are_shown_where_the_other_came_along(
    tmp_path: Path, code: int
) -> None:
    known, sent = Authority.create("the CA"), Authority.create("the CA")
    trust = tmp_path / "ca.pem"
    trust.write_bytes(known.certificate_pem())
    problem = VerifyProblem(code, "text", 1, sent.certificate)
    said = verify_failure(problem, of_server=True, trust=str(trust)).reason
    for authority in (known, sent):
        assert authority.certificate.fingerprint(hashes.SHA256()).hex(":") in said


def test_nothing_is_added_where_the_names_differ_or_nothing_can_be_read(tmp_path: Path) -> None:
    trust = tmp_path / "ca.pem"
    trust.write_bytes(Authority.create("another CA").certificate_pem())
    for where in (trust, tmp_path / "missing", "the system's certificate store"):
        assert "fingerprint" not in reason(20, Authority.create("the CA"), where)
