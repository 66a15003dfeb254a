"""What the user sees of a command that is run: its exit status, its signals.

Three processes. The one that the user has started waits for the command. The supervisor is its
child, and the command is the supervisor's, which may look into it for that (ptrace_scope 1 lets
ancestors alone). What the command leaves running when it ends, such as a daemon, stays with the
supervisor.

Signals from the terminal, and those for the whole process group (timeout(1) sends such), reach all
three, and mean the command. Those that somebody sends to the first process alone are passed on.

If the supervisor dies, its sockets end, and what it would have to answer fails with ENOSYS: the
command does not hang, and the first process says what has happened.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Collection
from contextlib import suppress
from typing import IO, Any, NoReturn

from umktls.errors import UmktlsError
from umktls.limits import raise_descriptor_limit
from umktls.run.supervisor import RunConfig, filter_of, supervise
from umktls.run.system import become_subreaper
from umktls.run.tracee import EXIT_OWN, Tracee

__all__ = ["run_in_front"]

PASSED_ON = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
SI_KERNEL = 0x80


def run_in_front(config: RunConfig, as_json: bool) -> NoReturn:
    """Run the command, and end as it ends."""
    become_subreaper()  # the command's parent, should the supervisor die
    told, tell = os.pipe()
    # What comes before it can be passed on waits: else the command would stay alone.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if not child:
        os.close(told)
        supervisor(config, os.fdopen(tell, "w"), before)
    os.close(tell)
    with os.fdopen(told) as lines:
        pid = int(lines.readline() or 0)
        if pid:
            pass_signals_on(pid)
        report = lines.readline()
    if not report:
        end_as(without_supervisor(child, pid))
    found = json.loads(report)
    if "error" in found:
        complain(found["error"])
        os._exit(EXIT_OWN)
    if as_json:
        print(json.dumps(found["figures"]), file=sys.stderr, flush=True)
    end_as(found["status"])


def pass_signals_on(pid: int) -> None:
    """Have the command get what this process gets, but for what the terminal sends to both. They
    are blocked."""

    def work() -> None:
        while True:
            info = signal.sigwaitinfo(PASSED_ON)
            if info.si_code != SI_KERNEL:
                try:
                    os.kill(pid, info.si_signo)
                except OSError:
                    return

    threading.Thread(target=work, daemon=True).start()


def without_supervisor(supervisor: int, pid: int) -> int:
    """Wait for the command alone; its wait status."""
    os.waitpid(supervisor, 0)  # then the command is this process's child
    complain("the supervisor has ended; what goes on has no kernel TLS any more")
    try:
        while pid:
            ended, status = os.waitpid(-1, 0)  # all whose parents have ended are its children
            if ended == pid:
                return status
    except OSError:
        pass
    return EXIT_OWN << 8


def end_as(status: int) -> NoReturn:
    """End in the way that a wait status says."""
    sys.stdout.flush()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it has its own
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def supervisor(config: RunConfig, tell: IO[str], mask: Collection[int]) -> NoReturn:
    """The second process. Tells the command's process id, then, in JSON, how it has ended. `mask`:
    the signals that are blocked for the command."""

    def report(status: int, figures: dict[str, Any]) -> None:
        say({"status": status, "figures": figures})
        with suppress(BrokenPipeError):
            tell.close()
        let_go(2)

    def say(what: dict[str, Any]) -> None:
        if not tell.closed:
            with suppress(BrokenPipeError):  # the first process was killed
                print(json.dumps(what), file=tell, flush=True)

    try:
        become_subreaper()
        tracee = Tracee(config.command, filter_of(config), mask)
        raise_descriptor_limit()  # there are two for each socket; the command keeps its own limit
        os.set_inheritable(tell.fileno(), False)
        tell.write(f"{tracee.pid}\n")
        tell.flush()
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        let_go(0)
        let_go(1)
        from umktls.kernel.ground import hostclock

        hostclock.run(supervise, config, tracee, report)
    except (UmktlsError, OSError) as error:
        say({"error": str(error)})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def let_go(number: int) -> None:
    """Whoever reads or writes the other end must not wait for this process."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, number)
    os.close(nowhere)


def complain(text: str) -> None:
    print(f"umktls run: {text}", file=sys.stderr, flush=True)
