"""serve: the arguments it refuses, and the line it says when it is ready."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
import trio
from click.testing import CliRunner

from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.certs import layout
from umktls.certs.kinds import Wallet
from umktls.cli.control import Host
from umktls.cli.main import main
from umktls.cli.sandbox import Sandbox
from umktls.cli.serve import serve
from umktls.cli.serve_options import ServeOptions
from umktls.cli.serve_ready import mount_lines
from umktls.cli.serving import ready_line
from umktls.errors import CallerError
from umktls.kernel.host.children import program_path
from umktls.kernel.krpc.plaincalls import Place, plain_calls
from umktls.kernel.krpc.server import ServerConfig
from umktls.nfs.program import MOUNT3, NFS3
from umktls.nfsd.exports.exports import Export, Security, Squash
from umktls.rpc.client import ProgramUnavailable
from umktls.rpc.program import Program

DAEMONS_PAGE = Path(__file__).parents[2] / "docs" / "daemons.md"


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
    (("DIR", "--no-tls", "--mountport", "1", "--workers", "2"), "at the port of NFS alone"),
    (("DIR", "--no-tls", "--daemon-args", "'"), "No closing quotation"),
    (
        ("DIR", "--personality", "freebsd13.0", "--certs", "PKI"),
        "the kernel of freebsd13.0 cannot receive TLS 1.3: add --bounce allow, or --daemon-args=-2",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_options_that_do_not_go_together(
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
        (("-tlscert",), "mtls", "mtls", ()),
        (("--mtls-required",), "mtls", "mtls", ()),
        (("-tlscertuser",), "certuser", "mtls", ("--certuser",)),
        (("--user-required",), "certuser", "mtls", ("--certuser",)),
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
    assert config.security == handshake
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


def test_ready_line_leaves_out_the_usual_port(tmp_path: Path) -> None:
    config = ServerConfig(hosts=("h",), offer_tls=False)
    assert " h:/x " in ready_line(config, (Export(str(tmp_path), name="/x"),), 2049)


def test_ready_line_can_be_typed(tmp_path: Path) -> None:
    config = ServerConfig(hosts=("h",), certs=Path("/p k/i"))
    line = ready_line(config, (Export(str(tmp_path), name="/my 'x'"),), 7, "nfs.example.org")
    words = shlex.split(line)
    assert words[3:7] == ["nfs.example.org:7:/my 'x'", "MOUNTPOINT", "--certs", "/p k/i"]


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


def test_managed_groups_are_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = options(str(tmp_path), "--no-tls", "--manage-gids")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CallerError, match="--manage-gids is for root"):
        told.config(told.exports())


def test_the_page_says_what_a_server_says(tmp_path: Path) -> None:
    documented = [line.removesuffix(" /mnt") for line in DAEMONS_PAGE.read_text().splitlines()]
    exports = (Export(str(tmp_path), name="/srv/data", security="tls"),)
    for line in mount_lines(ServerConfig(hosts=("nfs.example.org",)), exports, (2049, 2049)):
        assert line.partition(": ")[2].partition(" MOUNTPOINT")[0] in documented


def test_mount_has_a_port_of_its_own_besides(tmp_path: Path) -> None:
    """There NFS is not to be had, and kernels are told where it is."""
    with (
        Sandbox("t") as sandbox,
        serving(sandbox, "--no-tls", str(tmp_path), "--mountport", "0") as (server),
    ):
        (host,) = sandbox.hosts()
        port, mount_port = host.facts["port"], host.facts["mount_port"]
        assert server.stdout is not None
        linux = server.stdout.readline()
        assert f",port={port},mountport={mount_port},mountproto=tcp,nolock 127.0.0.1:" in linux
        assert server.stdout.readline().startswith("on FreeBSD: mount -t nfs -o nfsv3,tcp,port=")
        assert trio.run(offered, port) == [NFS3, MOUNT3]
        assert trio.run(offered, mount_port) == [MOUNT3]


async def offered(port: int) -> list[Program]:
    """The programs that are to be had at a port."""
    place = Place(socket.AF_INET, ("127.0.0.1", port))
    found = []
    for program in (NFS3, MOUNT3):
        with suppress(ProgramUnavailable):
            async with plain_calls(place, patience(20)) as calls:
                await calls.call(program["NULL"], None)
            found.append(program)
    return found


def test_serve_answers_stat_and_ends_by_sigterm(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        host, ready = sandbox.serve("--certs", str(sandbox.certs), "--tls-required")
        assert ready.startswith(f"ready: umktls mount 127.0.0.1:{host.facts['port']}:")
        state = host.stat()
        assert state["host"]["role"] == "server"
        assert state["exports"] == [str(sandbox.export)]
        assert [daemon["name"] for daemon in state["daemons"]] == ["rpctlssd"]
        processes = sandbox.processes()
        assert len(processes) == 2
        for pid in processes:  # the host and its daemon
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        sandbox.stop_server()
        assert sandbox.processes() == {}
        assert sandbox.hosts() == []
        assert list(sandbox.run.iterdir()) == []


def test_several_daemons_register(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        host, _ = sandbox.serve("--certs", str(sandbox.certs), "--daemons", "3")
        daemons = until_registered(host, 3)
        assert {daemon["name"] for daemon in daemons} == {"rpctlssd"}
        assert len({daemon["pid"] for daemon in daemons}) == 3
        sandbox.stop_server()
        assert sandbox.processes() == {}


def until_registered(host: Host, count: int) -> list[dict[str, Any]]:
    """The host's daemons once there are so many: the server is ready when the first one is."""
    for event in host.trace(follow=True):
        if event["event"] == "daemon-registered" and len(host.stat()["daemons"]) == count:
            break
    daemons: list[dict[str, Any]] = host.stat()["daemons"]
    return daemons


def test_sighup_has_the_exports_read_again(tmp_path: Path) -> None:
    """Also that a mistake in the file changes nothing, and that the daemons reload."""
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        other = sandbox.directory("other")
        file = sandbox.top / "exports"
        file.write_text(f"{sandbox.export}\n")
        arguments = ("--exports", str(file), "--certs", str(sandbox.certs))
        with told() as words, serving(sandbox, *arguments) as server:
            assert words.recv(100) == b"READY=1"
            (host,) = sandbox.hosts()
            assert host.stat()["exports"] == [str(sandbox.export)]
            file.write_text(f"{sandbox.export} -tlscert\n{other} -ro -tls\n")
            server.send_signal(signal.SIGHUP)
            assert words.recv(100).startswith(b"RELOADING=1")
            assert words.recv(100) == b"READY=1"
            assert "/other" in wait_for_event(host.trace(follow=True), "exports")["what"]
            assert host.stat()["exports"] == [str(sandbox.export), str(other)]
            file.write_text(f"{other}\n\n/nowhere\n")
            server.send_signal(signal.SIGHUP)
            assert server.stderr is not None
            complaint = server.stderr.readline()
            assert complaint.startswith(f"umktls: {file}:3: export /nowhere: not a directory")
            assert complaint.endswith("the exports stay as they were\n")
            assert host.stat()["exports"] == [str(sandbox.export), str(other)]
            events = host.trace(follow=True)
            for _ in range(2):
                assert "0 sessions" in wait_for_event(events, "reloaded")["outcome"]


def test_the_last_export_for_users_can_go(tmp_path: Path) -> None:
    """Though --domain means nothing then."""
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        file = sandbox.top / "exports"
        file.write_text(f"{sandbox.export} -tlscertuser\n")
        domain = ("--domain", "example.org")
        with serving(
            sandbox, "--exports", str(file), "--certs", str(sandbox.certs), *domain
        ) as server:
            (host,) = sandbox.hosts()
            file.write_text(f"{sandbox.directory('other')} -tls\n")
            server.send_signal(signal.SIGHUP)
            assert "/other" in wait_for_event(host.trace(follow=True), "exports")["what"]


def test_daemons_by_hand_have_to_be_started_again_for_users(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        file = sandbox.top / "exports"
        file.write_text(f"{sandbox.export}\n")
        with serving(sandbox, "--exports", str(file), "--no-daemon") as server:
            assert server.stderr is not None
            (host,) = sandbox.hosts()
            line = f"rpctlssd --rundir {host.rundir} -l CERTS/ca.pem -D CERTS/server -m"
            advice = f"TLS needs an rpctlssd; start one: {line} --alpn auto\n"
            assert server.stderr.readline().endswith(advice)
            file.write_text(f"{sandbox.export} -tlscertuser\n")
            server.send_signal(signal.SIGHUP)
            told = server.stderr.readline()
            assert told.endswith(f"end it, and start it so: {line} --alpn auto --certuser\n")


@pytest.mark.long
def test_an_export_s_engine_is_that_of_its_clients(tmp_path: Path) -> None:
    """From the file as it is when they connect; connections that there are keep theirs."""
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        file = sandbox.top / "exports"
        arguments = ("--exports", str(file), "--certs", str(sandbox.certs), "--engine", "toe")
        file.write_text(f"{sandbox.export} -engine=bounce 127.0.0.1\n")
        with serving(sandbox, *arguments) as server:
            (host,) = sandbox.hosts()
            events = host.trace(follow=True)

            def engines() -> list[str]:
                where = f"127.0.0.1:{host.facts['port']}"
                sandbox.command(["probe", where, "--certs", str(sandbox.certs)], 30)
                last = host.stat()["connections"][-1]
                return [last[way]["engine"] for way in ("tx", "rx")]

            assert engines() == ["bounce", "bounce"]
            for options, expected in (
                ("-engine=ifnet", ["ifnet", "software"]),
                ("-engine=bounce 192.0.2.1", ["toe", "toe"]),
                ("-engine=null", None),
            ):
                file.write_text(f"{sandbox.export} {options}\n")
                server.send_signal(signal.SIGHUP)
                wait_for_event(events, "exports")
                assert expected is None or engines() == expected
            assert server.stderr is not None
            assert "CLEAR TEXT" in server.stderr.readline()


def test_nobody_need_listen(tmp_path: Path) -> None:
    """Neither to the ready line nor to complaints: whoever started the server may have gone."""
    with Sandbox("t") as sandbox, told() as words:
        file = tmp_path / "exports"
        file.write_text(f"{sandbox.export}\n")
        reading, writing = os.pipe()
        os.close(reading)
        with (
            os.fdopen(writing, "wb") as gone,
            serving(sandbox, "--no-tls", "--exports", str(file), output=gone) as server,
        ):
            assert words.recv(100) == b"READY=1"
            file.write_text("/nowhere\n")
            server.send_signal(signal.SIGHUP)
            assert words.recv(100).startswith(b"RELOADING=1")
            assert words.recv(100) == b"READY=1"
    assert server.returncode == 0


@contextmanager
def told() -> Iterator[socket.socket]:
    """A service manager's socket, for what is started inside the block."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as words,
        pytest.MonkeyPatch.context() as m,
    ):
        words.bind(f"\0umktls-test-{os.getpid()}")
        words.settimeout(20)
        m.setenv("NOTIFY_SOCKET", f"@umktls-test-{os.getpid()}")
        yield words


@contextmanager
def serving(
    sandbox: Sandbox, *arguments: str, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A server; one that is ready, unless its output goes elsewhere."""
    own = ("--host", "127.0.0.1", "--port", "0", "--state", str(sandbox.top / "state"))
    server = subprocess.Popen(
        [program_path("umktls"), "serve", *own, *arguments],
        env=sandbox.environment(),
        stdout=output or subprocess.PIPE,
        stderr=output or subprocess.PIPE,
        text=True,
    )
    try:
        if server.stdout is not None:
            assert server.stdout.readline().startswith("ready: ")
        yield server
    finally:
        server.terminate()
        server.communicate(timeout=patience(20))


def wait_for_event(events: Iterator[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(event for event in events if event["event"] == name)


def test_keys_that_others_can_read_are_told_of(tmp_path: Path) -> None:
    with Sandbox("t") as sandbox:
        layout.create(sandbox.certs)
        for name in ("cakey.pem", "server/certkey.pem"):
            (sandbox.certs / name).chmod(0o644)
        sandbox.serve("--certs", str(sandbox.certs))
        complaints = sandbox.server_log.read_text()
        for name in ("cakey.pem", "server/certkey.pem"):
            path = sandbox.certs / name
            words = f"umktls: key {path}: others can get at this key (mode 0644): chmod 600 {path}"
            assert words in complaints.splitlines()
