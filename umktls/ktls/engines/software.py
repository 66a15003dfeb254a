"""The `software` engine: records by the cryptography package's AEADs, in this process."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from umktls.abi.freebsd import TCP_TLS_MODE_SW
from umktls.ktls.engines import Opener, Sealer
from umktls.ktls.engines.tls13 import Aead, Tls13Opener, Tls13Sealer
from umktls.ktls.session import Direction, Session
from umktls.ktls.suites import TLS_1_3

AEADS: dict[str, Callable[[bytes], Aead]] = {
    "TLS_AES_128_GCM_SHA256": AESGCM,
    "TLS_AES_256_GCM_SHA384": AESGCM,
    "TLS_CHACHA20_POLY1305_SHA256": ChaCha20Poly1305,
}


class SoftwareEngine:
    """See Engine. Without state of its own."""

    name = "software"
    mode = TCP_TLS_MODE_SW

    def supports(self, session: Session, direction: Direction) -> str | None:
        if session.version != TLS_1_3:
            return f"version {session.version:#06x} is not TLS 1.3"
        if session.suite.name not in AEADS:
            return f"no AEAD for {session.suite.name}"
        return None

    def sealer(self, session: Session) -> Sealer:
        return Tls13Sealer(session, AEADS[session.suite.name](session.key))

    def opener(self, session: Session) -> Opener:
        return Tls13Opener(session, AEADS[session.suite.name](session.key))
