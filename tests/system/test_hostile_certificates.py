"""Certificates whose names drive terminals, as they are shown by all that shows them.

Whole hosts, from the daemon that reads the certificate to the terminal; `tests/test_printable.py`
tries each way out by itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Command, Finished
from umktls.certs.layout import LOCAL_HOSTS
from umktls.certs.pki import Authority
from umktls.cli.sandbox import Sandbox
from umktls.testing.certificates import CLIENT, SERVER, directory

pytestmark = pytest.mark.long

# A string for the terminal, a line of its own, another direction of writing, C1's CSI. No colours:
# those click takes out by itself where it writes to no terminal.
HOSTILE = "\x1bPowned\x07\r\nall is well\u202e\u2066\x9b2J\u2028"
SHOWN = "\\x1bPowned\\x07\\x0d\\x0aall is well\\u202e\\u2066\\u009b2J\\u2028"
ASCII = "\x1bPowned\x07\r\n"  # what an IA5String may have
ASCII_SHOWN = "\\x1bPowned\\x07\\x0d\\x0a"
# The server itself says nothing of clients that are as they should be.
QUIET = {"server.log"}


def certificates(box: Sandbox, authority: Authority) -> Path:
    names: dict[str, Any] = {
        "common_name": f"cn {HOSTILE}",
        "organization": f"o {HOSTILE}",
        "emails": (f"{ASCII}@example.org",),
        "uris": (f"urn:{ASCII}",),
    }
    server = replace(SERVER, hosts=(*LOCAL_HOSTS, f"san {ASCII}"), **names)
    client = replace(CLIENT, hosts=(f"san {ASCII}",), user=f"{HOSTILE}@example.org", **names)
    return directory(box.top / "hostile", authority, server=server, client=client)


def fit_for_people(text: str) -> None:
    for line in text.splitlines():
        assert line.isprintable(), ascii(line)
        assert not line.startswith("all is well")


def logs(box: Sandbox) -> dict[str, str]:
    """What the hosts and daemons have logged; byte by byte, as a terminal gets it."""
    paths = [box.server_log, *box.run.glob("**/*.log")]
    return {str(path.relative_to(box.top)): path.read_bytes().decode() for path in paths}


def said(done: Finished) -> str:
    assert done.code == 0, done
    return done.out


def test_no_name_in_a_certificate_reaches_a_terminal_raw(sandbox: Sandbox, umktls: Command) -> None:
    certs = certificates(sandbox, Authority.create(f"ca {HOSTILE}"))
    addresses = ("--host", "127.0.0.1", "--host", "127.0.0.2")
    server, _ = sandbox.serve("--certs", str(certs), "-tlscert", *addresses)
    port = server.facts["port"]
    strangers = directory(sandbox.top / "strangers", Authority.create("another CA"))
    for host, trusting in (("localhost", strangers), ("127.0.0.2", certs)):
        what = f"{host}:{port}:{sandbox.export}"
        done = umktls("mount", what, sandbox.mountpoint, "--certs", trusting)
        assert done.code == 32
        fit_for_people(done.err)
        assert ASCII_SHOWN in done.line, ascii(done.line)
    sandbox.mount(f"localhost:{port}:{sandbox.export}", "--certs", str(certs), "-o", "mtls")
    shown = {
        "stat": said(umktls("stat")),
        "trace": said(umktls("trace", "--past")),
        "probe": said(umktls("probe", f"localhost:{port}", "--certs", certs, "--mutual")),
        **logs(sandbox),
    }
    for text in shown.values():
        fit_for_people(text)
    quiet = {name for name, text in shown.items() if ASCII_SHOWN not in text}
    assert quiet <= QUIET
    # What programs read has it as it came.
    hosts = json.loads(said(umktls("stat", "--json")))["hosts"]
    tls = [one["tls"] for host in hosts for one in host["connections"]]
    peers = [one["peer"] for one in tls if one]
    assert any(HOSTILE in peer for peer in peers), peers
