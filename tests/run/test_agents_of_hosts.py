"""Unmodified handshake agents that hosts start for themselves, and on trial."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import patience
from tests.run.programs import c_agent
from tests.system.live import ended, kill, needs_fuse, until
from umktls.abi.personality import PERSONALITIES
from umktls.certs import layout
from umktls.cli.main import main
from umktls.cli.sandbox import Sandbox
from umktls.scenarios import runner
from umktls.scenarios.bench import Role
from umktls.scenarios.runner import choose

pytestmark = pytest.mark.long

IN_PYTHON = Path(__file__).with_name("agents") / "agent.py"
TEXT = "what the server has"
UPCALL_SECONDS = 5.0


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """How to start each agent, without its certificates."""
    return {
        "c": [c_agent(tmp_path_factory.mktemp("agent")), "-a"],
        "python": [sys.executable, "-u", str(IN_PYTHON)],
    }


def with_certificates(agent: list[str], certs: str, ca: str) -> list[str]:
    return [*agent, "-t", ca, "-c", f"{certs}/cert.pem", "-k", f"{certs}/certkey.pem"]


def line(agent: list[str], box: Sandbox, side: str) -> str:
    certs = str(box.certs / side)
    return shlex.join(with_certificates(agent, certs, str(box.certs / "ca.pem")))


@pytest.mark.parametrize(("ours", "theirs"), [("c", "python"), ("python", "c")])
def test_a_mount_by_mtls_with_an_agent_on_each_side(
    agents: dict[str, list[str]], ours: str, theirs: str
) -> None:
    """The hosts start them by umktls run, and take them for their daemons."""
    needs_fuse()
    with Sandbox("agents") as box:
        layout.create(box.certs)
        (box.export / "file").write_text(TEXT)
        serve = (
            "--personality",
            "linux",
            "-tlscert",
            "--daemon",
            line(agents[theirs], box, "server"),
        )
        server, _ = box.serve(*serve)
        where = f"127.0.0.1:{server.facts['port']}:{box.export}"
        options = f"mtls,personality=linux,daemon={line(agents[ours], box, 'client')}"
        client = box.mount(where, "-o", options)
        assert (box.mountpoint / "file").read_text() == TEXT
        (box.mountpoint / "new").write_bytes(b"x" * 200_000)
        assert (box.export / "new").read_bytes() == b"x" * 200_000
        for host in (client, server):
            (daemon,) = host.stat()["daemons"]
            assert daemon["path"] == "netlink group tlshd"
        (connection,) = server.stat()["connections"]
        assert connection["tls"]["client_certificate"] == "shown"


def test_an_agent_that_dies_is_started_again(agents: dict[str, list[str]]) -> None:
    with Sandbox("agents") as box:
        layout.create(box.certs)
        agent = line(agents["c"], box, "server")
        server, _ = box.serve("--personality", "linux", "--daemon", agent)
        (before,) = server.stat()["daemons"]
        kill(before["pid"])
        until(lambda: ended(before["pid"]), "it is gone")
        until(
            lambda: [one["pid"] for one in server.stat()["daemons"]] not in ([], [before["pid"]]),
            "another one has come",
        )


async def test_scenarios_played_to_an_agent(agents: dict[str, list[str]], tmp_path: Path) -> None:
    roles: tuple[Role, ...] = ("client", "server")
    for role in roles:
        only = ["good", "mutual", "wrong-ca", "key-update-by-us-first"]
        command = with_certificates(agents["c"], "{certdir}", "{ca}")
        place = tmp_path / role
        place.mkdir()
        results = await runner.run(
            role,
            command,
            choose(role, only),
            place,
            patience(UPCALL_SECONDS),
            personality=PERSONALITIES["linux"],
            agent=True,
        )
        verdicts = [result.verdict for result in results]
        assert verdicts == ["passed", "passed", "passed", "skipped"], results


def test_what_cannot_be_is_wrong_usage(tmp_path: Path) -> None:
    for arguments, words in (
        (["run-daemon", "--agent"], "needs a command"),
        (["run-daemon", "--personality", "freebsd15", "--", "x", "{config}"], "no netlink family"),
        (["serve", str(tmp_path), "--daemon", "x", "--no-daemon"], "--no-daemon"),
        (["serve", str(tmp_path), "--daemon", "x", "--personality", "freebsd15"], "no netlink"),
        (["serve", str(tmp_path), "--daemon", "'", "--personality", "linux"], "No closing"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code in (1, 2), (arguments, result.output)
        assert words in result.output, arguments


def test_a_missing_agent_is_told(tmp_path: Path) -> None:
    with Sandbox("agents") as box:
        options = ("--personality", "linux", "--daemon", "/nonexistent/tlshd -s")
        with pytest.raises(Exception, match="/nonexistent/tlshd"):
            box.serve(*options)


def test_the_expectations_of_an_agent_are_data() -> None:
    """The list says what is expected otherwise, and why."""
    command = [sys.executable, "-m", "tests.run.umktls_main", "run-daemon", "--agent", "--list"]
    said = subprocess.run(command, capture_output=True, timeout=patience(30), check=True).stdout
    assert b"close-notify: passed over; the end when the peer closes" in said
    assert b"key-update-by-us-first: behind DONE nobody asks an agent for keys" in said
