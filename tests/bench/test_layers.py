"""Whose the time is that py-spy has found."""

from __future__ import annotations

import pytest

from tests.bench.layers import RATE, seconds

OUTER = "<module> (umktls:8);run (trio/_core/_run.py:2500);"


@pytest.mark.parametrize(
    ("innermost", "layer"),
    [
        ("wrapper (_pyfuse3.py:29)", "pyfuse3 and who reads for it"),
        ("_look (fs/readturn.py:160)", "pyfuse3 and who reads for it"),
        ("create (fs/namespace.py:201)", "file system"),
        ("read (<xdr CREATE3resok or CREATE3resfail>:3)", "XDR"),
        ("match_untrusted (umktls/rpc/client.py:90)", "RPC"),
        ("seal (umktls/ktls/engines/tls13.py:70)", "records"),
        ("push (umktls/kernel/sockets/stream.py:99)", "sockets"),
        ("_create (umktls/nfsd/program/creation.py:88)", "files of the server"),
        ("do_handshake (OpenSSL/SSL.py:2000)", "OpenSSL, certificates"),
        ("upcall (umktls/kernel/upcalls/tls.py:80)", "upcalls, system calls"),
        ("work (daemons/common/serving.py:9)", "the daemon itself"),
        ("run (trio/_core/_run.py:2500)", "trio"),
        ("select", "the rest"),
    ],
)
def test_the_innermost_function_says_the_layer(innermost: str, layer: str) -> None:
    assert seconds([f"{OUTER}{innermost} {7 * RATE}"]) == {layer: 7.0}


def test_samples_of_a_layer_are_added() -> None:
    lines = [f"{OUTER}{name} (fs/tree.py:1) {RATE}" for name in ("a", "b")]
    lines.append(f"{OUTER}b (umktls/ktls/tx.py:5) {RATE // 2}")
    assert seconds(lines) == {"file system": 2.0, "records": 0.5}
    assert seconds([]) == {}
