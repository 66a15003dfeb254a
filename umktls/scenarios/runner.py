"""Running scenarios: a fresh host, the daemon as its daemon, one scenario after the other."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import trio

from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.certs.kinds import Wallet
from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError
from umktls.kernel.captures.config import CaptureConfig
from umktls.kernel.host.boot import booted
from umktls.kernel.host.config import HostConfig
from umktls.scenarios import handshakes, sessions, troubles, updates
from umktls.scenarios.bench import Bench, Role
from umktls.scenarios.subject import Subject, as_agent, places
from umktls.scenarios.table import SCENARIOS, Scenario, Skipped

__all__ = ["Result", "benched", "choose", "run"]

# Importing them has filled the table, in this order.
SCRIPTS = (handshakes, sessions, updates, troubles)

# No scenario takes longer, whatever the daemon does: it is over then, and has failed.
SCENARIO_SECONDS = 60.0
Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the score card; `seconds` is how long the scenario took."""

    scenario: str
    verdict: Verdict
    expected: str
    seen: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(role: Role, only: Sequence[str] = ()) -> list[Scenario]:
    """The scenarios for a role, those named if any are. Raises `CallerError` for unknown names."""
    fitting = {name: one for name, one in SCENARIOS.items() if role in one.roles}
    unknown = [name for name in only if name not in fitting]
    if unknown:
        raise CallerError(
            f"no scenario {', '.join(unknown)} for a {role} daemon; --list shows those there are"
        )
    return [one for name, one in fitting.items() if not only or name in only]


async def run(
    role: Role,
    command: Sequence[str],
    scenarios: Iterable[Scenario],
    directory: Path,
    seconds: float,
    tell: Callable[[Result], None] = lambda result: None,
    personality: Personality = DEFAULT_PERSONALITY,
    capture: CaptureConfig | None = None,
    rundir: Path | None = None,
    agent: bool = False,
) -> list[Result]:
    """The score card. `directory` is for certificates and logs, and for the run directory, unless
    that is to be `rundir`; `tell` gets each result as it comes; `personality` is the kernel that
    the daemon is to serve; `capture` is where what passes the host's sockets goes; `agent`: the
    command is an unmodified agent for Linux's handshake upcall.

    Raises `WorldError` when the daemon cannot be started at all.
    """
    made = benched(role, command, directory, seconds, personality, capture, rundir, agent)
    async with made as bench:
        return [await play_on(bench, scenario, tell) for scenario in scenarios]


@asynccontextmanager
async def benched(
    role: Role,
    command: Sequence[str],
    directory: Path,
    seconds: float,
    personality: Personality = DEFAULT_PERSONALITY,
    capture: CaptureConfig | None = None,
    rundir: Path | None = None,
    agent: bool = False,
) -> AsyncIterator[Bench]:
    """The bench, its daemon not started; arguments are those of `run`. `rundir`: the host's, if it
    is not in `directory`."""
    wallet = Wallet(directory / "pki")
    rundir = rundir or directory / "run"
    config = HostConfig(role, rundir, personality, upcall_seconds=seconds, capture=capture)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with booted(config) as host:
            named = places(role, rundir, wallet.path)
            if agent:
                command, named = as_agent(command, named, directory)
            subject = Subject.of(command, named, directory / "daemon.log")
            try:
                yield Bench(role, host, subject, wallet, directory, seconds, listener, agent)
            finally:
                with trio.CancelScope(shield=True):
                    await subject.end()


async def play_on(bench: Bench, scenario: Scenario, tell: Callable[[Result], None]) -> Result:
    """One scenario, with a daemon that runs at its beginning."""
    if not (bench.subject.alive and bench.host.handles[bench.daemon]):
        await bench.subject.start(bench.host, bench.daemon)
    result = await play(scenario, bench)
    tell(result)
    return result


async def play(scenario: Scenario, bench: Bench) -> Result:
    """One scenario; whatever goes wrong in it is its result."""
    expected = scenario.under(bench.host.personality, bench.agent)
    if expected.skipped:
        return Result(scenario.name, "skipped", expected.words, expected.skipped, 0.0)
    began = trio.current_time()
    verdict: Verdict = "failed"
    try:
        with trio.fail_after(SCENARIO_SECONDS):
            seen = await scenario.script(bench)
        verdict = "passed"
        if not bench.subject.alive:
            verdict, seen = "failed", f"{seen}; but the daemon ended: {bench.subject.last_words()}"
    except* Skipped as group:
        verdict, seen = "skipped", text_of(group)
    except* (UmktlsError, trio.TooSlowError, OSError) as group:
        seen = text_of(group)
    return Result(scenario.name, verdict, expected.words, seen, trio.current_time() - began)


def text_of(group: BaseExceptionGroup[Any]) -> str:
    """What the first error of a group says."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.TooSlowError):
        return "it took too long: nothing happens any more"
    return str(error) or type(error).__name__
