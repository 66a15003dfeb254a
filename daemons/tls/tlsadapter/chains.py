"""The chains of verified peers: remembered for sessions that are resumed, and verified again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache

from cryptography import x509
from OpenSSL import crypto

from ..failure import VerifyProblem

__all__ = ["NOBODY", "Chain", "Chains", "chain_of"]

# Peers whose chains are remembered for when they resume.
CHAINS_LIMIT = 16384
# Peers that come back: to take certificates apart costs a daemon a thirtieth of a handshake.
REMEMBERED = 1024


class Chain:
    """A verified peer: its certificate first, the trusted CA last. Empty where it showed none.

    `der` are the same certificates as bytes. There is one object for as long as it is remembered
    (`chain_of`), so that what is found out of it can be remembered too.
    """

    __slots__ = ("_certificates", "der")

    def __init__(self, der: tuple[bytes, ...]) -> None:
        self.der = der
        self._certificates = tuple(map(x509.load_der_x509_certificate, der))

    def __len__(self) -> int:
        return len(self.der)

    def __iter__(self) -> Iterator[x509.Certificate]:
        return iter(self._certificates)

    def __getitem__(self, place: int) -> x509.Certificate:
        return self._certificates[place]


@lru_cache(REMEMBERED)
def chain_of(der: tuple[bytes, ...]) -> Chain:
    """The chain of these certificates. Raises `ValueError` where one cannot be read."""
    return Chain(der)


NOBODY = chain_of(())


class Chains:
    """Of the peers of one context; `store` is what it verifies them by."""

    def __init__(self, store: crypto.X509Store) -> None:
        self._store = store
        self._known: OrderedDict[bytes, Chain] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, certificate: bytes, verified: Chain) -> Chain:
        """The verified chain of the peer of a finished handshake, whose certificate is given as
        DER; b"" for none.

        `verified` is empty where a session was resumed, which has only the certificate itself; the
        rest is remembered from the handshake that it goes back to, which was made under this
        context too.
        """
        if not certificate:
            return NOBODY
        chain = verified or self._known.get(certificate) or chain_of((certificate,))
        self._known[certificate] = chain
        self._known.move_to_end(certificate)
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
