"""serve: the arguments it refuses, and what it makes of the others."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.certs import layout
from umktls.cli.main import main
from umktls.cli.serve import serve
from umktls.cli.serve_options import ServeOptions
from umktls.cli.serving import ready_line
from umktls.errors import CallerError
from umktls.kernel.host.commands import program_path
from umktls.nfsd.exports.exports import Export


def refused(*arguments: str) -> str:
    """What `umktls serve` says when it does not serve."""
    done = subprocess.run(
        [program_path("umktls"), "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_tls_without_certificates_is_refused_with_advice(tmp_path: Path) -> None:
    said = refused(str(tmp_path))
    assert said.startswith("umktls: TLS needs certificates: pass --certs DIR")
    assert "--no-tls" in said


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    said = refused(str(tmp_path), "--certs", str(tmp_path))
    assert f"umktls: {tmp_path}/ca.pem is missing" in said


AGENT = ("--daemon", "tlshd -s", "--personality", "linux")
MISTAKES = [
    ((), "nothing to serve"),
    (("DIR", "--exports", "FILE"), "not both"),
    (("--exports", "FILE", "--read-only"), "--read-only: with --exports"),
    (("--exports", "FILE", "--squash", "all"), "--squash: with --exports"),
    (("--exports", "FILE", "--insecure"), "--insecure: with --exports"),
    (("--exports", "FILE", "-tlscert"), "-tlscertuser: with --exports"),
    (("--exports", "FILE", "--no-tls"), "asks for TLS, and --no-tls offers none"),
    (("--exports", "BAD", "--no-tls"), "bad:2: there is no option -rw"),
    (("DIR", "--no-tls", "--domain", "example.org"), "see --certuser"),
    (("DIR", "--no-tls", "--daemon-args", "'"), "No closing quotation"),
    (("DIR", "--no-tls", "--demand-certificate"), "about handshakes, and --no-tls offers none"),
    (
        ("DIR", "--personality", "freebsd13.0", "--certs", "PKI"),
        "the kernel of freebsd13.0 cannot receive TLS 1.3: add --bounce allow, or --daemon-args=-2",
    ),
    (("DIR", *AGENT, "--daemon-args", "-v"), "has a configuration of its own"),
    (("DIR", *AGENT, "--crl", "FILE"), "has a configuration of its own"),
    (("DIR", *AGENT, "--daemons", "2"), "has a configuration of its own"),
    (("DIR", *AGENT, "--no-tls"), "--daemon is about handshakes, and --no-tls offers none"),
    (("DIR", *AGENT, "--no-daemon"), "by --no-daemon none: leave out one"),
    (("DIR", *AGENT, "-tlscertuser"), "leave out --daemon, or that option"),
    (("DIR", "--daemon", "tlshd", "--personality", "freebsd14"), "take personality=linux"),
    (("DIR", "--daemon", ""), "--daemon needs a command"),
    (("DIR", "--daemon", "tlshd 'x"), "No closing quotation"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_words_that_do_not_go_together(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "exports").write_text(f"{tmp_path} -tls\n")
    (tmp_path / "bad").write_text(f"#\n{tmp_path} -rw\n")
    paths = {"DIR": tmp_path, "FILE": tmp_path / "exports", "BAD": tmp_path / "bad"}
    result = CliRunner().invoke(main, ["serve", *(str(paths.get(a, a)) for a in arguments)])
    assert result.exit_code == 1
    assert words in result.stderr


def options(*arguments: str) -> ServeOptions:
    return ServeOptions.of(serve.make_context("serve", list(arguments)).params)


@pytest.mark.parametrize(
    ("flag", "security", "handshake", "more"),
    [
        ((), "none", "none", ()),
        (("-tls",), "tls", "tls", ()),
        (("--tls-required",), "tls", "tls", ()),
        (("-tlscert",), "mtls", "tls", ()),
        (("--mtls-required",), "mtls", "tls", ()),
        (("-tlscertuser",), "certuser", "tls", ("--certuser",)),
        (("--user-required",), "certuser", "tls", ("--certuser",)),
        (("-tlscert", "--demand-certificate"), "mtls", "mtls", ()),
        (("-tlscertuser", "--demand-certificate"), "certuser", "mtls", ("--certuser",)),
        (("--demand-certificate",), "none", "mtls", ()),
        (("--certuser", "--domain", "d"), "none", "none", ("--certuser", "--domain", "d")),
        (("--crl", "/crl"), "none", "none", ("--crl", "/crl")),
        (("--daemon-args", "-w -C 'a b'"), "none", "none", ("-w", "-C", "a b")),
    ],
)
def test_what_becomes_of_the_flags(
    tmp_path: Path, flag: tuple[str, ...], security: str, handshake: str, more: tuple[str, ...]
) -> None:
    layout.create(tmp_path / "pki")
    told = options(str(tmp_path), "--certs", str(tmp_path / "pki"), *flag)
    exports = told.exports()
    config = told.config(exports)
    assert [export.security for export in exports] == [security]
    # Who lacks a certificate hears of it from RPC, and not in the handshake.
    assert (config.security, config.facts["security"]) == (handshake, security)
    arguments = ("--alpn", "auto", *sorted(more, key=more.index))
    assert config.daemon_arguments == arguments
    assert config.daemon()[0].arguments[-len(arguments) :] == arguments


def test_a_personality(tmp_path: Path) -> None:
    exports = [Export(str(tmp_path))]
    told = options(str(tmp_path), "--no-tls", "--personality", "freebsd14")
    assert told.config(exports).personality is PERSONALITIES["freebsd14"]
    assert options(str(tmp_path), "--no-tls").config(exports).personality.name == "umktls"
    wrong = CliRunner().invoke(main, ["serve", str(tmp_path), "--personality", "netbsd"])
    assert wrong.exit_code == 2
    for name in ("netbsd", *PERSONALITIES):
        assert f"'{name}'" in wrong.stderr


@pytest.mark.parametrize(
    "more",
    [
        ("--bounce", "allow"),
        ("--daemon-args", "-2 -v"),
        ("--daemon-args=--allowtls1_2",),
        ("--engine", "rx=bounce,tx=software"),
        ("--engine", "null"),
        ("--no-daemon",),
    ],
)
def test_what_makes_up_for_a_kernel_that_cannot_receive_tls_1_3(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    layout.create(tmp_path / "pki")
    told = options(
        str(tmp_path), "--personality", "freebsd13.0", "--certs", str(tmp_path / "pki"), *more
    )
    assert told.config(told.exports()).personality.name == "freebsd13.0"


def test_several_directories(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    told = options(str(tmp_path / "a"), str(tmp_path / "b"), "--no-tls", "--read-only")
    exports = told.exports()
    assert [export.name for export in exports] == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert all(export.read_only for export in exports)
    line = ready_line(told.config(exports), tuple(exports), 7)
    assert f":{tmp_path}/a MOUNTPOINT" in line
    assert f"also exported: {tmp_path}/b" in line


def test_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        said = refused(str(tmp_path), "--no-tls", "--host", "127.0.0.1", "--port", str(port))
    assert f"127.0.0.1 port {port}: Address already in use" in said


def test_missing_directory_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(tmp_path / "nowhere"), "--no-tls"])
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("flags", "squash"),
    [
        ((), "root"),
        (("--no-root-squash",), "none"),
        (("--squash", "none"), "none"),
        (("--squash", "all"), "all"),
        (("--no-root-squash", "--squash", "all"), "all"),
    ],
)
def test_root_is_squashed_as_exports_has_it(
    tmp_path: Path, flags: tuple[str, ...], squash: str
) -> None:
    (export,) = options(str(tmp_path), "--no-tls", *flags).exports()
    assert export.squash == squash


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ((), ("localhost",)),
        (("--host", "::"), ("::",)),
        (("--host", "127.0.0.1", "--host", "nfs.example.org"), ("127.0.0.1", "nfs.example.org")),
    ],
)
def test_hosts_to_listen_on(
    tmp_path: Path, arguments: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    told = options(str(tmp_path), "--no-tls", *arguments)
    assert told.config(told.exports()).hosts == hosts


def test_managed_groups_are_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = options(str(tmp_path), "--no-tls", "--manage-gids")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CallerError, match="--manage-gids is for root"):
        told.config(told.exports())
