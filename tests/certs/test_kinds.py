"""The certificates of every kind, judged by the openssl program: bad in the way that they are said
to be, and good if in none."""

from __future__ import annotations

import subprocess

import pytest

from tests.conftest import patience
from umktls.certs.kinds import KINDS, Wallet

# What is said of each fault. Names are checked by the address: for a name, OpenSSL would look at
# the subject too.
SAID = {
    "": "OK",
    "signed by a CA that nobody here knows": "unable to get local issuer certificate",
    "self-signed": "self-signed certificate",
    "expired": "certificate has expired",
    "not yet valid": "certificate is not yet valid",
    "revoked": "error 23 at 0 depth lookup: certificate revoked",
    "signed by a CA that was revoked": "error 23 at 1 depth lookup: certificate revoked",
    "for another name": "IP address mismatch",
    "for a pattern, which RFC 9289 bans": "IP address mismatch",
    "without a subjectAltName": "IP address mismatch",
    "for clients, not for servers": "certificate purpose",
    "for servers, not for clients": "certificate purpose",
}


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    return Wallet(tmp_path_factory.mktemp("kinds") / "wallet")


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_what_it_says(wallet: Wallet, name: str) -> None:
    certificate = wallet.directory(name) / "cert.pem"
    client = name == "client" or name.endswith("-client")
    what = ["-purpose", "sslclient"]
    if not client:
        what = ["-purpose", "sslserver", "-verify_ip", "127.0.0.1"]
    trust = ["-CAfile", str(wallet.ca), "-crl_check_all", "-CRLfile", str(wallet.crl)]
    done = subprocess.run(
        ["openssl", "verify", *trust, *what, "-untrusted", str(certificate), str(certificate)],
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )
    said = done.stdout + done.stderr
    assert SAID[KINDS[name].fault] in said
    assert (done.returncode == 0) == (KINDS[name].fault == "")


@pytest.mark.parametrize(
    "fault",
    [
        "signed by a CA that nobody here knows",
        "self-signed",
        "expired",
        "not yet valid",
        "revoked",
        "signed by a CA that was revoked",
    ],
)
def test_both_sides_have_each_fault(fault: str) -> None:
    names = [name for name, kind in KINDS.items() if kind.fault == fault]
    assert len(names) == 2
    assert sum(name.endswith("-client") for name in names) == 1
