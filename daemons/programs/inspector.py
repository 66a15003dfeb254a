"""A client's handshake daemon for `umktls probe`: it takes any certificate, and tells what it saw.

What rpctlscd would refuse is written down here, and the handshake goes on, so that a person gets to
see all of a server at once. Nobody should mount with it.

For each finished handshake one JSON object is appended to the report, on a line of its own:
connection (the kernel's name of it), version, suite, alpn, chain (facts of each certificate that
the server has sent, its own first), problems (phase, reason, advice of each).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from umktls.errors import UmktlsError
from umktls.userland.libc import Kernel

from ..tls.certtexts import extension_of, issuer_text, subject_text
from ..tls.facts import alternative_names
from ..tls.failure import verify_failure
from ..tls.tlsadapter import Endpoint
from .options import ClientOptions
from .rpctlscd import ClientService
from .running import serve
from .taken import Attempt, Taken

__all__ = ["Inspector", "certificate_facts", "main"]

PATH = click.Path(path_type=Path)


class Inspector(ClientService):
    """See the module. `report` is the file to append to."""

    def __init__(self, kernel: Kernel, options: ClientOptions, report: Path) -> None:
        super().__init__(kernel, options)
        self._report = report

    def _prepare(self, certname: str, taken: Taken) -> Attempt:
        attempt = super()._prepare(certname, taken)
        attempt.endpoint.accept_any_certificate()
        return attempt

    def _report_handshake(self, taken: Taken, endpoint: Endpoint, said: str) -> dict[str, Any]:
        trust = str(self._options.trust)
        asked = taken.sock.peer_name()
        failures = [
            verify_failure(problem, of_server=True, trust=trust, asked=asked)
            for problem in endpoint.findings.problems
        ]
        seen = {
            "connection": taken.connection,
            "version": endpoint.version,
            "suite": endpoint.suite,
            "alpn": endpoint.alpn.decode("ascii", "backslashreplace"),
            "chain": [certificate_facts(certificate) for certificate in endpoint.shown],
            "problems": [
                {"phase": one.phase, "reason": one.reason, "advice": one.advice} for one in failures
            ],
        }
        with self._report.open("a") as file:
            file.write(json.dumps(seen) + "\n")
        return super()._report_handshake(taken, endpoint, said)


def certificate_facts(certificate: x509.Certificate) -> dict[str, Any]:
    """What a person wants to know of a certificate: times in ISO 8601, UTC; of the names in the
    subjectAltName, those that are texts."""
    return {
        "subject": subject_text(certificate),
        "issuer": issuer_text(certificate),
        "serial": f"{certificate.serial_number:x}",
        "names": alternative_names(certificate),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "key": key_kind(certificate),
        "usage": usages(certificate),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(":"),
    }


def key_kind(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey").strip("_")


def usages(certificate: x509.Certificate) -> list[str]:
    """The extended key usages, by name where they have one, else as dotted numbers."""
    names = {"1.3.6.1.5.5.7.3.33": "rpcTLSClient", "1.3.6.1.5.5.7.3.34": "rpcTLSServer"}
    return [
        names.get(one.dotted_string, getattr(one, "_name", one.dotted_string))
        for one in extension_of(certificate, x509.ExtendedKeyUsage) or ()
    ]


@click.command("inspector")
@click.option("--rundir", type=PATH, required=True, help="Run directory of the host to serve.")
@click.option("--report", type=PATH, required=True, help="File to append to.")
@click.option("--certdir", type=PATH, required=True, help="Directory with a client certificate.")
@click.option("--ca", type=PATH, help="PEM file of the CAs to trust. [default: the system's]")
@click.option("--crl", type=PATH, help="PEM file of revocation lists.")
@click.option("--mutual", is_flag=True, help="Show the client certificate.")
def main(
    rundir: Path, report: Path, certdir: Path, ca: Path | None, crl: Path | None, mutual: bool
) -> None:
    """Handshake with servers to see what they are like, for `umktls probe`."""
    options = ClientOptions(
        rundir, certdir, verifylocs=ca, crl=crl, mutualverf=mutual, alpn="compat"
    )
    make = partial(Inspector, options=options, report=report)
    try:
        serve(Kernel(rundir), "rpctlscd", make, ready=lambda: None)
    except UmktlsError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
