"""The chains of verified peers: remembered for sessions that are resumed, and verified again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import crypto

from ..failure import VerifyProblem

__all__ = ["Chain", "Chains"]

# A verified peer: its certificate first, the trusted CA last. Empty where it showed none.
Chain: TypeAlias = tuple[x509.Certificate, ...]

# Peers whose chains are remembered for when they resume.
CHAINS_LIMIT = 16384


class Chains:
    """Of the peers of one context; `store` is what it verifies them by."""

    def __init__(self, store: crypto.X509Store) -> None:
        self._store = store
        self._known: OrderedDict[bytes, Chain] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, certificate: x509.Certificate | None, verified: Chain) -> Chain:
        """The verified chain of the peer of a finished handshake.

        `verified` is empty where a session was resumed, which has only the certificate itself; the
        rest is remembered from the handshake that it goes back to, which was made under this
        context too.
        """
        if certificate is None:
            return ()
        key = certificate.fingerprint(hashes.SHA256())
        chain = verified or self._known.get(key, (certificate,))
        self._known[key] = chain
        self._known.move_to_end(key)
        if len(self._known) > CHAINS_LIMIT:
            self._known.popitem(last=False)
        return chain

    def problem_with(self, chain: Chain) -> VerifyProblem | None:
        """Why a chain that verified once does not verify now; None if it does, or is empty."""
        if not chain:
            return None
        certificate, *above = map(crypto.X509.from_cryptography, chain)
        try:
            crypto.X509StoreContext(self._store, certificate, above).verify_certificate()
        except crypto.X509StoreContextError as error:
            code, depth, text = error.errors
            return VerifyProblem(code, text, depth, error.certificate.to_cryptography())
        return None
