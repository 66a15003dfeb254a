"""What TCP_TXTLS_ENABLE and TCP_RXTLS_ENABLE refuse, with which errno, in which order.

The order is FreeBSD's and can be seen from outside: a structure with two faults gets the errno of
the one that is looked at first. It is ktls_enable_tx, ktls_enable_rx and ktls_create_session of
uipc_ktls.c, then ktls_ocf_try of ktls_ocf.c. The keys are copied in between STRUCTURE_CHECKS and
KEYS_CHECKS, so a bad pointer (EFAULT) hides only what the latter find.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from umktls.abi.freebsd import (
    CRYPTO_AES_128_NIST_GMAC,
    CRYPTO_AES_192_NIST_GMAC,
    CRYPTO_AES_256_NIST_GMAC,
    CRYPTO_AES_CBC,
    CRYPTO_AES_CCM_16,
    CRYPTO_AES_NIST_GCM_16,
    CRYPTO_CHACHA20_POLY1305,
    CRYPTO_SHA1_HMAC,
    CRYPTO_SHA2_256_HMAC,
    CRYPTO_SHA2_384_HMAC,
    TLS_MAJOR_VER_ONE,
    TLS_MAX_PARAM_SIZE,
    TLS_MINOR_VER_ONE,
    TLS_MINOR_VER_THREE,
    TLS_MINOR_VER_TWO,
    TLS_MINOR_VER_ZERO,
    TlsEnable,
)
from umktls.abi.personality import KeyRules
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError, UnsupportedError, WorldError
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.counters import Sysctls as Sysctls
from umktls.ktls.session.suites import TLS_1_3


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of setsockopt(2) as the checks see it. `before` is the session that is there."""

    direction: Direction
    enable: TlsEnable
    before: Session | None
    tcp: bool
    listening: bool
    spliced: bool
    sysctls: Sysctls
    keys: KeyRules

    @property
    def is_tx(self) -> bool:
        return self.direction == "tx"

    @property
    def cbc(self) -> bool:
        return self.enable.cipher_algorithm == CRYPTO_AES_CBC

    @property
    def iv_ignored(self) -> bool:
        """CBC from TLS 1.1 on sends an IV with each record, and looks at no other."""
        return self.cbc and self.enable.tls_vminor != TLS_MINOR_VER_ZERO

    @property
    def refuses_second_key(self) -> bool:
        if self.before is None:
            return False
        return not (self.keys.rekey and self.before.version == TLS_1_3)


@dataclass(frozen=True, slots=True)
class Check:
    """Refuse with `error` and `errno` where `refuses` says so."""

    refuses: Callable[[Attempt], bool]
    error: type[UmktlsError]
    errno: int
    text: str


def run_checks(checks: Sequence[Check], attempt: Attempt) -> None:
    """Raise the first check's error that refuses the attempt."""
    for check in checks:
        if check.refuses(attempt):
            raise check.error(f"{attempt.direction.upper()} {check.text}", check.errno)


def _bad_version(a: Attempt) -> bool:
    minor = a.enable.tls_vminor
    return (
        a.enable.tls_vmajor != TLS_MAJOR_VER_ONE
        or not TLS_MINOR_VER_ZERO <= minor <= TLS_MINOR_VER_THREE
    )


def _bad_lengths(a: Attempt) -> bool:
    enable = a.enable
    return (
        not 0 < enable.cipher_key_len <= TLS_MAX_PARAM_SIZE
        or not 0 <= enable.auth_key_len <= TLS_MAX_PARAM_SIZE
        or not 0 <= enable.iv_len <= _MAX_IV_LENGTH
        or enable.flags != 0
    )


def _bad_gcm(a: Attempt) -> bool:
    enable = a.enable
    return enable.cipher_algorithm in (CRYPTO_AES_NIST_GCM_16, CRYPTO_AES_CCM_16) and (
        enable.auth_algorithm not in _GCM_AUTH
        or enable.auth_key_len != 0
        or _GCM_IV_LENGTH.get(enable.tls_vminor) != enable.iv_len
    )


def _bad_chacha(a: Attempt) -> bool:
    enable = a.enable
    return enable.cipher_algorithm == CRYPTO_CHACHA20_POLY1305 and (
        enable.auth_algorithm != 0
        or enable.auth_key_len != 0
        or enable.tls_vminor not in _GCM_IV_LENGTH
        or enable.iv_len != _CHACHA_IV_LENGTH
    )


def _bad_cbc(a: Attempt) -> bool:
    enable = a.enable
    return a.cbc and (
        enable.tls_vminor not in _CBC_AUTH.get(enable.auth_algorithm, ())
        or enable.auth_key_len == 0
        or (enable.tls_vminor == TLS_MINOR_VER_ZERO and enable.iv_len != _MAX_IV_LENGTH)
    )


def _cbc_cannot_be_received(a: Attempt) -> bool:
    if a.is_tx or not a.cbc:
        return False
    oldest = a.keys.rx_cbc
    return oldest is None or a.enable.tls_vminor < oldest


_MAX_IV_LENGTH = 16
_CHACHA_IV_LENGTH = 12
_GCM_IV_LENGTH = {TLS_MINOR_VER_TWO: 4, TLS_MINOR_VER_THREE: 12}
_GCM_AUTH = (0, CRYPTO_AES_128_NIST_GMAC, CRYPTO_AES_192_NIST_GMAC, CRYPTO_AES_256_NIST_GMAC)
_CBC_AUTH = {
    CRYPTO_SHA1_HMAC: (TLS_MINOR_VER_ZERO, TLS_MINOR_VER_ONE, TLS_MINOR_VER_TWO),
    CRYPTO_SHA2_256_HMAC: (TLS_MINOR_VER_TWO,),
    CRYPTO_SHA2_384_HMAC: (TLS_MINOR_VER_TWO,),
}
_KEY_LENGTHS = {
    CRYPTO_AES_NIST_GCM_16: (16, 32),
    CRYPTO_AES_CCM_16: (16,),
    CRYPTO_AES_CBC: (16, 32),
    CRYPTO_CHACHA20_POLY1305: (32,),
}

# A call that these refuse is not counted (kern.ipc.tls.stats.enable_calls).
KNOB_CHECKS = (
    Check(
        lambda a: not a.sysctls.enable,
        UnsupportedError,
        errno.ENOTSUP,
        "TLS refused: kern.ipc.tls.enable is 0",
    ),
    Check(
        lambda a: not (a.is_tx or a.sysctls.rx_enable),
        UnsupportedError,
        errno.ENOTSUP,
        "TLS refused: kern.ipc.tls.rx_enable is 0",
    ),
)

STRUCTURE_CHECKS = (
    Check(lambda a: not a.tcp, CallerError, errno.EINVAL, "TLS refused: not a TCP socket"),
    Check(
        lambda a: a.refuses_second_key,
        CallerError,
        errno.EALREADY,
        "TLS refused: it is enabled already, and the key stays",
    ),
    Check(
        lambda a: a.cbc and not a.sysctls.cbc_enable,
        UnsupportedError,
        errno.ENOTSUP,
        "TLS refused: AES-CBC, and kern.ipc.tls.cbc_enable is 0",
    ),
    Check(
        lambda a: a.is_tx and not a.sysctls.mb_use_ext_pgs,
        UnsupportedError,
        errno.ENXIO,
        "TLS refused: kern.ipc.mb_use_ext_pgs is 0",
    ),
    Check(_bad_version, CallerError, errno.EINVAL, "TLS refused: no such TLS version"),
    Check(
        _bad_lengths,
        CallerError,
        errno.EINVAL,
        "TLS refused: a length in struct tls_enable cannot be, or its flags are not 0",
    ),
    Check(
        lambda a: a.enable.cipher_algorithm not in a.keys.algorithms,
        CallerError,
        errno.EINVAL,
        "TLS refused: unknown cipher_algorithm",
    ),
    Check(_bad_gcm, CallerError, errno.EINVAL, "TLS refused: AES-GCM does not go with the rest"),
    Check(
        _bad_chacha, CallerError, errno.EINVAL, "TLS refused: ChaCha20 does not go with the rest"
    ),
    Check(_bad_cbc, CallerError, errno.EINVAL, "TLS refused: AES-CBC does not go with the rest"),
)

KEYS_CHECKS = (
    Check(
        lambda a: a.enable.cipher_key_len not in _KEY_LENGTHS[a.enable.cipher_algorithm],
        CallerError,
        errno.EINVAL,
        "TLS refused: no such key length for this cipher",
    ),
    Check(
        _cbc_cannot_be_received,
        UnsupportedError,
        errno.EPROTONOSUPPORT,
        "TLS refused: this kernel cannot receive AES-CBC of that version",
    ),
    Check(
        lambda a: not a.is_tx and a.enable.tls_vminor > a.keys.rx_newest,
        UnsupportedError,
        errno.EPROTONOSUPPORT,
        "TLS refused: this kernel cannot receive records of that version yet",
    ),
)

LAST_CHECKS = (
    Check(lambda a: a.listening, CallerError, errno.EINVAL, "TLS refused: a listening socket"),
    Check(lambda a: a.spliced, CallerError, errno.EINVAL, "TLS refused: a spliced socket"),
)


def refuse_dropped(dropped: bool) -> None:
    """The very first check, in front of copying anything in: ECONNRESET."""
    if dropped:
        raise WorldError("TLS refused: the connection has been dropped", errno.ECONNRESET)
