"""serve: the line that it says when it is ready, and what there is to type on clients."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from umktls.certs import layout
from umktls.certs.kinds import Wallet
from umktls.cli.sandbox import Sandbox
from umktls.cli.serve_ready import mount_lines
from umktls.cli.serving import ready_line
from umktls.kernel.krpc.server import ServerConfig
from umktls.nfsd.exports.exports import Export, Security, Squash

DAEMONS_PAGE = Path(__file__).parents[2] / "docs" / "daemons.md"


@pytest.mark.parametrize(
    ("security", "offer_tls", "certs", "line"),
    [
        ("none", False, None, "ready: umktls mount h:7:/x MOUNTPOINT -o notls   (no TLS"),
        ("none", True, "/pki", "ready: umktls mount h:7:/x MOUNTPOINT --certs /pki   (TLS is off"),
        ("tls", True, "/pki", "ready: umktls mount h:7:/x MOUNTPOINT --certs /pki   (TLS is req"),
        ("mtls", True, "/pki", "ready: umktls mount h:7:/x MOUNTPOINT --certs /pki -o mtls   (T"),
        ("tls", True, None, "ready: umktls mount h:7:/x MOUNTPOINT   (TLS is required; "),
    ],
)
def test_ready_line(
    tmp_path: Path, security: Security, offer_tls: bool, certs: str | None, line: str
) -> None:
    config = ServerConfig(
        hosts=("h",), security=security, offer_tls=offer_tls, certs=Path(certs) if certs else None
    )
    export = Export(str(tmp_path), name="/x", security=security)
    assert ready_line(config, (export,), 7).startswith(line)


@pytest.mark.parametrize(
    ("squash", "words"),
    [
        ("root", "; root of a client is nobody here)"),
        ("none", "; root of a client is root here)"),
        ("all", "; everybody is nobody here)"),
    ],
)
def test_as_whom_calls_are_done_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squash: Squash, words: str
) -> None:
    export = Export(str(tmp_path), name="/x", squash=squash)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for offer_tls in (True, False):
        config = ServerConfig(hosts=("h",), offer_tls=offer_tls)
        assert ready_line(config, (export,), 7).endswith(words)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    words = "every call is done as the user who serves, number 1000)"
    assert ready_line(ServerConfig(hosts=("h",)), (export,), 7).endswith(words)


def test_exports_that_squash_in_different_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "b").mkdir()
    exports = (
        Export(str(tmp_path), name="/a"),
        Export(str(tmp_path / "b"), name="/b", squash="all", anonymous=(7, 7)),
    )
    line = ready_line(ServerConfig(hosts=("h",)), exports, 7)
    assert "; root of a client is nobody here in /a, everybody is user 7 here in /b; also" in line


def test_what_a_handshake_demands_is_in_what_there_is_to_type(tmp_path: Path) -> None:
    """By --demand-certificate, whatever the exports ask for."""
    config = ServerConfig(hosts=("h",), security="mtls", facts={"security": "tls"})
    exports = (Export(str(tmp_path), name="/x", security="tls"),)
    assert " -o mtls " in ready_line(config, exports, 7)
    assert ",xprtsec=mtls," in mount_lines(config, exports, (7, 7))[0]


def test_ready_line_leaves_out_the_usual_port(tmp_path: Path) -> None:
    config = ServerConfig(hosts=("h",), offer_tls=False)
    assert " h:/x " in ready_line(config, (Export(str(tmp_path), name="/x"),), 2049)


def test_ready_line_can_be_typed(tmp_path: Path) -> None:
    config = ServerConfig(hosts=("h",), certs=Path("/p k/i"))
    line = ready_line(config, (Export(str(tmp_path), name="/my 'x'"),), 7, "nfs.example.org")
    words = shlex.split(line)
    assert words[3:7] == ["nfs.example.org:7:/my 'x'", "MOUNTPOINT", "--certs", "/p k/i"]


def test_a_server_on_all_addresses_prints_a_name_of_its_certificate(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        told = ("--certs", str(sandbox.certs), "--host", "0.0.0.0", "--host", "127.0.0.1")
        host, ready = sandbox.serve(*told)
        assert ready.startswith(f"ready: umktls mount 127.0.0.1:{host.facts['port']}:")
        assert sandbox.server_log.read_text() == ""


def test_a_server_whose_certificate_has_no_name_for_it_says_so(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        sandbox.certs.rmdir()
        shutil.copytree(Wallet(tmp_path / "w").directory("elsewhere").parent, sandbox.certs)
        shutil.rmtree(sandbox.certs / "server")
        (sandbox.certs / "elsewhere").rename(sandbox.certs / "server")
        sandbox.serve("--certs", str(sandbox.certs), "--host", "0.0.0.0")
        assert "clients will refuse it: make one with `umktls certs" in (
            sandbox.server_log.read_text()
        )


def test_ready_line_puts_ipv6_in_brackets(tmp_path: Path) -> None:
    config = ServerConfig(hosts=("::1",), offer_tls=False)
    assert " '[::1]:7:/x' " in ready_line(config, (Export(str(tmp_path), name="/x"),), 7)


@pytest.mark.parametrize(
    ("security", "offer_tls", "linux", "freebsd"),
    [
        ("none", False, "mountproto=tcp,nolock", "port=7,nolockd"),
        ("none", True, "mountproto=tcp,xprtsec=tls,nolock", "port=7,tls,nolockd"),
        ("tls", True, "mountproto=tcp,xprtsec=tls,nolock", "port=7,tls,nolockd"),
        ("mtls", True, "mountproto=tcp,xprtsec=mtls,nolock", "port=7,tls,nolockd"),
        ("certuser", True, "mountproto=tcp,xprtsec=mtls,nolock", "port=7,tls,nolockd"),
    ],
)
def test_what_to_type_on_other_systems(
    tmp_path: Path, security: Security, *, offer_tls: bool, linux: str, freebsd: str
) -> None:
    config = ServerConfig(hosts=("::1",), offer_tls=offer_tls)
    exports = (Export(str(tmp_path), name="/my x", security=security),)
    on_linux, on_freebsd = mount_lines(config, exports, (7, 8))
    options = f"vers=3,proto=tcp,port=7,mountport=8,{linux}"
    assert on_linux == f"on Linux: mount -t nfs -o {options} '[::1]:/my x' MOUNTPOINT"
    assert on_freebsd.startswith(
        f"on FreeBSD: mount -t nfs -o nfsv3,tcp,{freebsd} '[::1]:/my x' MOUNTPOINT"
    )


def test_rpcbind_knows_the_ports(tmp_path: Path) -> None:
    exports = (Export(str(tmp_path), name="/x"),)
    assert mount_lines(ServerConfig(hosts=("h",)), exports, None) == [
        "on Linux: mount -t nfs -o vers=3,proto=tcp,xprtsec=tls,nolock h:/x MOUNTPOINT",
        "on FreeBSD: mount -t nfs -o nfsv3,tcp,tls,nolockd h:/x MOUNTPOINT",
    ]


def test_the_page_says_what_a_server_says(tmp_path: Path) -> None:
    documented = [line.removesuffix(" /mnt") for line in DAEMONS_PAGE.read_text().splitlines()]
    exports = (Export(str(tmp_path), name="/srv/data", security="tls"),)
    for line in mount_lines(ServerConfig(hosts=("nfs.example.org",)), exports, (2049, 2049)):
        assert line.partition(": ")[2].partition(" MOUNTPOINT")[0] in documented
