"""The names in a certificate: what a client may call the server by."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from umktls.errors import CallerError

__all__ = ["names_of"]


def names_of(path: Path) -> list[str]:
    """The DNS names and addresses in the subjectAltName of the first certificate of a PEM file, in
    their order. Raises `CallerError`."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except OSError as error:
        raise CallerError(f"cannot read {path}: {error.strerror}", error.errno) from error
    except ValueError as error:
        raise CallerError(f"{path}: no PEM certificate ({error})") from error
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
