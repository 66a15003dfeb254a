"""umount against a mount that works: in use, lazily, and that it waits for the process."""

from __future__ import annotations

import os
import re
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cli.fakes import describe
from tests.conftest import KERNEL_LACKS, patience
from tests.system.live import ended
from umktls.cli.control import Host
from umktls.cli.main import main
from umktls.cli.sandbox import Sandbox
from umktls.cli.umount import force_unmount, unmount
from umktls.errors import WorldError
from umktls.kernel.host.rundir import running

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason=f"{KERNEL_LACKS} FUSE")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("t") as sandbox:
        yield sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> Host:
    """The host of a mount without TLS: how it ends is the same."""
    server, _ = sandbox.serve("--no-tls", "--insecure")
    source = f"127.0.0.1:{server.facts['port']}:{sandbox.export}"
    return sandbox.mount(source, "-o", "notls")


def test_umount_writes_what_is_left_and_waits(sandbox: Sandbox, client: Host) -> None:
    content = os.urandom(3 << 20)
    (sandbox.mountpoint / "file").write_bytes(content)
    unmount(sandbox.mountpoint, base=sandbox.run)
    assert not running(client.pid)
    assert not client.rundir.exists()
    assert (sandbox.export / "file").read_bytes() == content
    assert list(sandbox.mountpoint.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], r"is unmounted; .* was not found in \S+ .*--rundir.* until all is written"),
        (["-f"], r"is unmounted; .* was not found in \S+ .*--rundir.* that it ends"),
    ],
    ids=["", "-f"],
)
def test_a_mount_whose_process_is_not_found_is_not_waited_for_in_silence(
    sandbox: Sandbox, client: Host, tmp_path: Path, words: list[str], missing: str
) -> None:
    environment = {"UMKTLS_RUNDIR": str(tmp_path)}
    command = ["umount", *words, str(sandbox.mountpoint)]
    done = CliRunner().invoke(main, command, env=environment)
    assert done.exit_code == 0
    assert re.search(missing, done.output)
    assert ended(client.pid)


@pytest.mark.parametrize("words", [[], ["-f"]], ids=["", "-f"])
def test_a_run_directory_of_its_own_can_be_named(
    sandbox: Sandbox, client: Host, tmp_path: Path, words: list[str]
) -> None:
    environment = {"UMKTLS_RUNDIR": str(tmp_path)}
    command = ["umount", *words, str(sandbox.mountpoint), "--rundir"]
    wrong = CliRunner().invoke(main, [*command, str(tmp_path)], env=environment)
    assert wrong.exit_code != 0
    assert f"{sandbox.mountpoint} has no run directory {tmp_path}" in wrong.output
    assert sandbox.mounted() == [sandbox.mountpoint]
    done = CliRunner().invoke(main, [*command, str(client.rundir)], env=environment)
    assert (done.exit_code, done.output) == (0, "")
    assert not running(client.pid)


def test_umount_of_a_mount_in_use_says_so_and_changes_nothing(
    sandbox: Sandbox, client: Host
) -> None:
    (sandbox.mountpoint / "file").write_text("still here")
    descriptor = os.open(sandbox.mountpoint / "file", os.O_RDONLY)
    try:
        with pytest.raises(WorldError, match=r"is in use: .*umktls umount -l"):
            unmount(sandbox.mountpoint, base=sandbox.run)
        assert os.read(descriptor, 100) == b"still here"
    finally:
        os.close(descriptor)
    assert sandbox.mounted() == [sandbox.mountpoint]


def test_lazy_umount_detaches_and_the_process_ends_with_the_last_use(
    sandbox: Sandbox, client: Host
) -> None:
    process = os.pidfd_open(client.pid)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    used = os.open(sandbox.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unmount(sandbox.mountpoint, lazy=True, base=sandbox.run)
        assert sandbox.mounted() == []
        assert poll.poll(0) == []
    finally:
        os.close(used)
    assert poll.poll(patience(20) * 1000)
    os.close(process)


@pytest.mark.parametrize("force", [False, True], ids=["", "-f"])
def test_who_waits_to_mount_at_the_same_place_is_left_alone(
    sandbox: Sandbox, client: Host, force: bool
) -> None:
    """A mount with `-o bg` whose server has not come, or one in another mount namespace: it was
    waited for, and with -f it was killed."""
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            facts = {"mountpoint": str(sandbox.mountpoint), "device": "0:1"}
            describe(sandbox.run, "client-0", other.pid, mount=facts)
            if force:
                force_unmount(sandbox.mountpoint, base=sandbox.run)
            else:
                unmount(sandbox.mountpoint, timeout=patience(20), base=sandbox.run)
            assert not running(client.pid)
            assert running(other.pid)
        finally:
            other.kill()


# No other program: until that runs, it has the name of this one.
KEEPS = "echo ready; read never"


@pytest.fixture
def elsewhere(sandbox: Sandbox, client: Host) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a mount namespace of its own, which has got a copy of the mount."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", KEEPS]
    command.append(str(sandbox.mountpoint))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                pytest.skip(f"{KERNEL_LACKS} the right to make a mount namespace")
            yield process
        finally:
            process.kill()


def test_umount_says_who_still_has_the_mount_in_another_mount_namespace(
    sandbox: Sandbox, client: Host, elsewhere: subprocess.Popen[bytes]
) -> None:
    """Nothing else does: the kernel ends a file system with its last mount."""
    with pytest.raises(WorldError, match=r"has not ended after 0\.5 s") as caught:
        unmount(sandbox.mountpoint, timeout=0.5, base=sandbox.run)
    said = str(caught.value)
    assert f"process {elsewhere.pid} (sh)" in said
    assert re.search(rf"`nsenter -t \d+ -m umount {sandbox.mountpoint}`", said)
    assert sandbox.mounted() == []
    ended = os.pidfd_open(client.pid)
    elsewhere.kill()
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    assert poll.poll(patience(20) * 1000)
    os.close(ended)


@pytest.mark.parametrize("words", [["umount", "-l"], ["mount", "localhost:/", "-o", "certs=/x"]])
def test_what_is_mounted_there_is_not_touched(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount whose server is away answers after minutes only: it has to be ended all the same."""
    touched = []

    def looking(call: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any, *args: Any, **more: Any) -> Any:
            touched.append(str(path))
            return call(path, *args, **more)

        return look

    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.setattr("umktls.cli.umount.mounts", lambda: {there: "fuse.sshfs"})
    monkeypatch.setattr("umktls_fs.command.check_mountpoint", refuse)
    for name in ("stat", "lstat", "open", "access"):
        monkeypatch.setattr(os, name, looking(getattr(os, name)))
    done = CliRunner().invoke(main, [words[0], *words[1:2], str(there), *words[2:]])
    assert done.exit_code != 0
    assert str(there) in done.output
    assert str(there) not in touched


def refuse(path: str) -> str:
    raise WorldError(f"{path} is busy")
