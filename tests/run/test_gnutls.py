"""GnuTLS under `umktls run`: Debian's is built without kernel TLS, and does not ask for it although
its configuration file says so. (gnutls-serv listens everywhere, so it is not tried here.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports import free_port
from tests.run import openssl
from tests.run.programs import Program, make_certificate, started, under_run


@pytest.mark.long
def test_it_talks_by_its_own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificate(tmp_path)
    (tmp_path / "gnutls.conf").write_text("[global]\nktls = true\n")
    monkeypatch.setenv("GNUTLS_SYSTEM_PRIORITY_FILE", str(tmp_path / "gnutls.conf"))
    port = free_port()
    talk = ["stdbuf", "-oL", "gnutls-cli", "--insecure", "-p", str(port), "127.0.0.1"]
    with (
        started(openssl.server(tmp_path, port, "tls1_3", "-rev", ktls=False)),
        started(Program([*under_run(), *talk], tmp_path)) as client,
    ):
        client.wait_for(b"Simple Client Mode")
        client.say(b"an echo\n")
        client.wait_for(b"ohce na")
        client.end()
    assert client.figures["connections"] == []
    assert "setsockopt" not in client.figures["calls"]
