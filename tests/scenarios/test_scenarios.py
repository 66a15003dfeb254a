"""The scenarios, played against our daemons, against one in C, and against ones that are no
good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from tests.cdaemon.build import cdaemon
from tests.conftest import patience
from umktls.abi.personality import PERSONALITIES
from umktls.cli.main import main
from umktls.cli.run_daemon import OWN_ARGUMENTS
from umktls.errors import WorldError
from umktls.kernel.host.boot import booted
from umktls.kernel.host.commands import program_path
from umktls.kernel.host.config import HostConfig
from umktls.scenarios import runner
from umktls.scenarios.bench import DAEMONS, Role
from umktls.scenarios.runner import choose
from umktls.scenarios.subject import Subject
from umktls.scenarios.table import SCENARIOS

pytestmark = pytest.mark.long

ROLES: tuple[Role, ...] = ("client", "server")
UPCALL_SECONDS = 2.0


def own(role: Role) -> tuple[str, ...]:
    return (program_path(DAEMONS[role]), *OWN_ARGUMENTS[role])


def in_c(role: Role, version: int = 1) -> tuple[str, ...]:
    return (str(cdaemon(version)), role, "{certdir}", "{ca}", "{crl}")


async def card(
    path: Path, role: Role, command: Sequence[str], *only: str, personality: str = "umktls"
) -> dict[str, tuple[str, str]]:
    """Verdict and what was seen, by scenario."""
    await trio.Path(path).mkdir(exist_ok=True)
    results = await runner.run(
        role,
        command,
        choose(role, only),
        path,
        patience(UPCALL_SECONDS),
        personality=PERSONALITIES[personality],
    )
    return {result.scenario: (result.verdict, result.seen) for result in results}


@pytest.mark.parametrize(
    ("command_of", "personality"),
    [
        (own, "umktls"),
        (in_c, "umktls"),
        (own, "freebsd15"),
        (partial(in_c, version=2), "freebsd15"),
    ],
    ids=["own", "in C", "own, version 2", "in C, version 2"],
)
async def test_every_scenario_is_passed(
    tmp_path: Path, command_of: Callable[[Role], tuple[str, ...]], personality: str
) -> None:
    """All that the kernel has, that is. Both roles at the same time, to save time: they share
    nothing."""
    cards: dict[str, dict[str, tuple[str, str]]] = {}
    kernel = PERSONALITIES[personality]

    async def one(role: Role) -> None:
        cards[role] = await card(
            tmp_path / role[0], role, command_of(role), personality=personality
        )

    with trio.fail_after(patience(55)):
        async with trio.open_nursery() as nursery:
            for role in ROLES:
                nursery.start_soon(one, role)
    for role in ROLES:
        missed = {name: one for name, one in cards[role].items() if one[0] != "passed"}
        lacking = {one.name: one.under(kernel).skipped for one in choose(role)}
        assert missed == {name: ("skipped", why) for name, why in lacking.items() if why}
        assert set(cards[role]) == {s.name for s in SCENARIOS.values() if role in s.roles}
        if command_of is own:  # others may have it in another phase
            assert cards[role]["fd-limit"][1].startswith("refused (setup: ")


# What differs between kernels, and what has to be the same.
KERNEL_SCENARIOS: dict[Role, tuple[str, ...]] = {
    "client": ("tickets-2", "resumption", "key-update-glued"),
    "server": ("own-tickets",),
}
BOTH_ROLES = ("good", "mutual", "wrong-ca", "glued", "alert-after-data", "close-notify")
UPDATES = [name for name in SCENARIOS if name.startswith("key-update-by-")]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("freebsd13.0", "cannot receive TLS 1.3"),
        ("linux6.12", "takes no second key"),
        ("linux", None),
    ],
)
async def test_other_kernels(tmp_path: Path, name: str, skipped: str | None, role: Role) -> None:
    only = (*BOTH_ROLES, *KERNEL_SCENARIOS[role], *UPDATES)
    with trio.fail_after(patience(40)):
        seen = await card(tmp_path / "c", role, own(role), *only, personality=name)
    reasons = {reason for verdict, reason in seen.values() if verdict == "skipped"}
    assert {verdict for verdict, _ in seen.values()} <= {"passed", "skipped"}, seen
    assert seen["good"][0] == seen["wrong-ca"][0] == "passed"
    assert len(reasons) == (skipped is not None)
    assert all(f"{name} {skipped}" in reason for reason in reasons)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("command_of", [own, in_c])
async def test_a_kernel_whose_keys_stay(
    tmp_path: Path, role: Role, command_of: Callable[[Role], tuple[str, ...]]
) -> None:
    """FreeBSD 14: no ticket and no KeyUpdate comes to the daemon, and none is asked for."""
    only = (*BOTH_ROLES, *KERNEL_SCENARIOS[role], *UPDATES)
    with trio.fail_after(patience(40)):
        seen = await card(tmp_path / "c", role, command_of(role), *only, personality="freebsd14")
    by_us = {name for name in UPDATES if "by-us" in name}
    assert {name for name, one in seen.items() if one[0] != "passed"} == by_us
    assert {seen[name] for name in by_us} == {
        ("skipped", "the kernel of freebsd14 takes no second key")
    }
    assert seen["key-update-by-peer-later"][1] == "the connection ended"
    if role == "client":
        assert seen["tickets-2"][1].startswith("0 of 2 tickets")


async def test_what_a_daemon_gets_wrong_is_found(tmp_path: Path) -> None:
    """One that was not given the revocation list takes the revoked certificate."""
    command = (program_path("rpctlscd"), "-D", "{certdir}", "-l", "{ca}")
    with trio.fail_after(patience(40)):
        seen = await card(tmp_path, "client", command, "good", "revoked")
    assert seen["good"][0] == "passed"
    assert seen["revoked"] == ("failed", "a session was made")


async def test_a_daemon_that_does_not_come_up(tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", "echo cannot find my shoes; exit 3")
    with trio.fail_after(patience(40)):
        with pytest.raises(WorldError, match="ended with code 3: cannot find my shoes"):
            await card(tmp_path, "client", command, "good")
        with pytest.raises(WorldError, match="cannot start /nowhere/daemon"):
            await card(tmp_path / "second", "client", ("/nowhere/daemon",), "good")


# ---- the command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["run-daemon", *arguments])


def test_the_score_card_for_people() -> None:
    done = run("--only", "good", "--only", "no-alpn", "--deadline", "20")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[:2] for line in lines[:4:2]] == [["passed", "good"], ["passed", "no-alpn"]]
    assert lines[0].endswith(" s  expected: a session, and calls on it")
    assert lines[2].endswith(" s  expected: refused, or borne with")
    assert lines[3].strip() == "seen: borne with: a session"
    assert lines[-1] == "2 passed, 0 failed, 0 skipped"


def test_where_nothing_can_be_played_nothing_is_passed() -> None:
    done = run("--personality", "freebsd14", "--only", "key-update-by-us-first")
    assert done.exit_code == 1
    assert done.output.splitlines()[-2:] == [
        "0 passed, 0 failed, 1 skipped",
        "nothing was played, so nothing is known of the daemon",
    ]


def test_a_daemon_that_ends_is_told_with_its_log() -> None:
    """As JSON, too."""
    command = ("/bin/sh", "-c", "echo cannot find my shoes; echo nor my hat; exit 3")
    done = run("--only", "good", "--", *command)
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "the end of the daemon's log:",
        "  cannot find my shoes",
        "  nor my hat",
        "0 passed, 0 failed, 0 skipped",
        "the daemon ended with code 3: nor my hat",
    ]
    card = json.loads(run("--only", "good", "--json", "--", *command).output)
    assert card["error"] == "the daemon ended with code 3: nor my hat"
    assert card["log"] == "cannot find my shoes\nnor my hat\n"
    assert card["results"] == []


async def test_a_daemon_that_does_not_register(tmp_path: Path) -> None:
    seconds = round(patience(2))
    config = HostConfig("client", tmp_path / "run", daemon_seconds=seconds)
    command = ("/bin/sh", "-c", "echo I am thinking; exec sleep 50")
    subject = Subject(command, dict(os.environ), tmp_path / "log")

    async def start() -> None:
        async with booted(config) as host:
            try:
                await subject.start(host, "rpctlscd")
            finally:
                await subject.end()

    with trio.fail_after(patience(40)), pytest.raises(WorldError) as caught:
        await start()
    assert str(caught.value) == (
        f"the daemon runs, but has not registered as rpctlscd within {seconds} s; the last that it "
        "said: I am thinking"
    )


def test_a_failure_is_the_exit_code_and_the_daemons_log_is_shown() -> None:
    """As JSON too; the placeholders are in the environment as well."""
    script = 'echo cafile is $UMKTLS_CA; exec "$0" -D {certdir} -l $UMKTLS_CA'
    command = ("/bin/sh", "-c", script, program_path("rpctlscd"))
    done = run("--only", "revoked", "--json", "--", *command)
    assert done.exit_code == 1, done.output
    card = json.loads(done.output)
    assert (card["failed"], card["passed"]) == (1, 0)
    (result,) = card["results"]
    assert (result["scenario"], result["verdict"]) == ("revoked", "failed")
    assert "cafile is /" in card["log"]


@pytest.mark.parametrize("role", ROLES)
def test_the_list_tells_what_each_scenario_is_about(role: Role) -> None:
    done = run("--list", "--role", role)
    assert done.exit_code == 0
    for one in choose(role):
        assert f"{one.name}: {one.expected}" in done.output
        assert len(one.about) > 30
    scarce = run("--list", "--role", role, "--personality", "freebsd14").output
    assert "key-update-by-us-first: the kernel of freebsd14 takes no second key" in scarce
    assert "key-update-by-peer-first: the connection ends at the next record" in scarce
    listed = json.loads(run("--list", "--json", "--role", role).output)["scenarios"]
    assert [one["name"] for one in listed] == [one.name for one in choose(role)]


def test_an_unknown_scenario() -> None:
    done = run("--only", "the-impossible")
    assert done.exit_code == 2
    assert "no scenario the-impossible for a client daemon" in done.output
