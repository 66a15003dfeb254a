"""The baseline a user would take instead: sshfs, with an sshd of its own on loopback."""

from __future__ import annotations

import getpass
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port
from umktls.errors import WorldError

CIPHER = "aes128-gcm@openssh.com"
SECONDS = 20.0
PRIVILEGE_SEPARATION = Path("/run/sshd")

CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {top}/host_key
AuthorizedKeysFile {top}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Ciphers {cipher}
Compression no
Subsystem sftp internal-sftp
"""


@contextmanager
def mounted(directory: Path, base: Path) -> Iterator[Path]:
    """`directory` mounted by sshfs inside the block, everything else of it below `base`."""
    top = Path(tempfile.mkdtemp(prefix="umktls-sshfs-", dir=base))
    try:
        with sshd(top) as port:
            mountpoint = top / "mnt"
            mountpoint.mkdir()
            mount(top, port, directory, mountpoint)
            try:
                yield mountpoint
            finally:
                command = ["fusermount3", "-u", "-z", str(mountpoint)]
                subprocess.run(command, check=True, timeout=SECONDS)
    finally:
        shutil.rmtree(top, ignore_errors=True)


@contextmanager
def sshd(top: Path) -> Iterator[int]:
    """An sshd with keys and a configuration of its own; the port it listens on."""
    for name in ("host_key", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(top / name)]
        subprocess.run(command, check=True, timeout=SECONDS)
    port = free_port()
    (top / "config").write_text(CONFIG.format(port=port, top=top, cipher=CIPHER))
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
    program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if program is None:
        raise WorldError("no sshd: install Debian's package openssh-server")
    command = [program, "-D", "-e", "-f", str(top / "config")]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_listening(server)
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=SECONDS)


def wait_until_listening(server: subprocess.Popen[str]) -> None:
    assert server.stderr is not None
    readable, _, _ = select.select([server.stderr], [], [], SECONDS)
    said = server.stderr.readline() if readable else ""
    if "listening" not in said:
        raise WorldError(f"sshd did not start: {said.strip() or 'it said nothing'}")


def mount(top: Path, port: int, directory: Path, mountpoint: Path) -> None:
    ssh = f"ssh -F none -i {top}/key -o BatchMode=yes -o StrictHostKeyChecking=no"
    ssh += f" -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o Ciphers={CIPHER}"
    source = f"{getpass.getuser()}@127.0.0.1:{directory}"
    command = ["sshfs", source, str(mountpoint), "-p", str(port), "-o", f"ssh_command={ssh}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise WorldError(f"sshfs failed: {done.stderr.strip()}")
