"""OpenSSL behind a small door: nobody else imports it. Begin with endpoint.py.

An `Endpoint` is one TLS connection over memory BIOs: bytes are fed, bytes are taken
out, and no socket is ever touched. It is made by a `TlsContext` (context.py). What the callbacks of
OpenSSL find out on the way (callbacks.py: traffic secrets from the key log, the verification
problem, alerts) is collected in `Findings`.

pyOpenSSL does not wrap all that is needed; the rest is reached through its cffi binding, which is
private (binding.py). `missing_features` says what an installed version lacks, before anything is
tried.

A context is never changed after its first connection (pyOpenSSL 26.2 refuses that), and a session
can be resumed only under the context that made it (26.3): a reload makes a new `TlsContext`, and
nobody gets past a new revocation list by an old ticket.
"""

from ..tlsfindings import ClientCertificates, Findings, NoCommonProtocol, Progress, TlsError
from .binding import missing_features
from .callbacks import ALPN
from .chains import NOBODY, Chain, chain_of
from .context import AUTHORITIES_LIMIT, TlsContext
from .endpoint import TICKET_LIMIT, Endpoint, TlsSession, Versions

__all__ = [
    "ALPN",
    "AUTHORITIES_LIMIT",
    "NOBODY",
    "TICKET_LIMIT",
    "Chain",
    "ClientCertificates",
    "Endpoint",
    "Findings",
    "NoCommonProtocol",
    "Progress",
    "TlsContext",
    "TlsError",
    "TlsSession",
    "Versions",
    "chain_of",
    "missing_features",
]
