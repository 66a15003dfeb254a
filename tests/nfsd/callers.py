"""Who calls in the tests of the services: some users, and connections as the services see them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tests.nfsd.client import FakePeer, user
from umktls.rpc.certificate import PeerCertificate


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


CERTIFICATE = PeerCertificate(
    fingerprint=digest("ann"),
    subject=b"CN=ann",
    issuer=b"CN=staff CA",
    serial=b"1f",
    names=(
        b"DNS:ws1.Example.org",
        b"email:Ann@Example.org",
        b"IP:192.0.2.7",
        b"URI:spiffe://example/Ann",
    ),
    authorities=(digest("staff CA"), digest("root CA")),
)
JOE = user(1000, 1001, (1002, 0))
ANYBODY = FakePeer(verified=False, reserved_port=False)
ANN = FakePeer(certificate=CERTIFICATE)
ANNS_USER = user(1000, 100, tuple(range(200, 230)))
CERTUSER = replace(ANN, user=ANNS_USER)
