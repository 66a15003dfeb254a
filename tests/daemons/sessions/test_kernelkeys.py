"""What is advised where kernel TLS does not take a direction."""

import errno

import pytest
from umktls_daemons.sessions.kernelkeys import _may_be_off, _no_kernel_tls

from umktls.errors import UmktlsError
from umktls.ktls.session.suites import TLS_1_3


@pytest.mark.parametrize(
    ("number", "advised", "not_advised"),
    [
        # kern.ipc.tls.enable and rx_enable are 0; kern.ipc.mb_use_ext_pgs is 0.
        (errno.EOPNOTSUPP, "umktls sysctl kern.ipc", "TLS 1.2"),
        (errno.ENXIO, "umktls sysctl kern.ipc", "TLS 1.2"),
        # FreeBSD 13.0 has no TLS 1.3 for receiving.
        (errno.EPROTONOSUPPORT, "TLS 1.2", "sysctl"),
    ],
)
def test_advice_is_about_the_cause(number: int, advised: str, not_advised: str) -> None:
    error = UmktlsError("setsockopt: no", number)
    advice = _no_kernel_tls("rx", TLS_1_3, str(error), _may_be_off(error)).advice
    assert advised in advice
    assert not_advised not in advice
