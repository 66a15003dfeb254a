"""The `software` engine: records by the cryptography package's ciphers (and libcrypto's ARIA), in
this process.
"""

from __future__ import annotations

from functools import cache

from umktls.abi.freebsd import TCP_TLS_MODE_SW
from umktls.ktls.engines.aeads import AEADS, why_not
from umktls.ktls.engines.cbc import CbcOpener, CbcSealer
from umktls.ktls.engines.engine import Opener, Sealer
from umktls.ktls.engines.tls12 import Tls12Opener, Tls12Sealer
from umktls.ktls.engines.tls13 import Tls13Opener, Tls13Sealer
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import TLS_1_0, TLS_1_3

_why_not = cache(why_not)


class SoftwareEngine:
    """See Engine. Without state of its own."""

    name = "software"
    mode = TCP_TLS_MODE_SW
    note = "records sealed and opened in this process"

    def supports(self, session: Session, direction: Direction) -> str | None:
        suite = session.suite
        if session.version not in suite.versions:
            return f"{suite.name} is not for version {session.version:#06x}"
        if suite.mac:
            received = direction == "rx" and session.version == TLS_1_0
            return "records of TLS 1.0 can only be sent" if received else None
        return _why_not(suite.cipher, suite.key_length)

    def sealer(self, session: Session) -> Sealer:
        if session.suite.mac:
            return CbcSealer(session)
        aead = AEADS[session.suite.cipher](session.key)
        if session.version == TLS_1_3:
            return Tls13Sealer(session, aead)
        return Tls12Sealer(session, aead)

    def opener(self, session: Session) -> Opener:
        if session.suite.mac:
            return CbcOpener(session)
        aead = AEADS[session.suite.cipher](session.key)
        if session.version == TLS_1_3:
            return Tls13Opener(session, aead)
        return Tls12Opener(session, aead)
