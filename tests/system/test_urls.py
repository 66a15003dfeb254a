"""`umktls ls`, `cat` and the like of nfs:// URLs, where pyfuse3 cannot be imported."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import patience
from umktls.certs import layout
from umktls.cli.sandbox import Sandbox
from umktls.kernel.host.commands import program_path

ODD = b"caf\xe9 \x1b[31m"
NO_FUSE = "no FUSE on this machine"


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        assert (self.code, self.err) == (0, "")
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Remote:
    """A server, and its export as it is on its own machine."""

    box: Sandbox
    export: Path
    url: str

    def start(self, *arguments: object, **how: Any) -> subprocess.Popen[bytes]:
        """`umktls` with these arguments, where pyfuse3 cannot be imported."""
        environment = self.box.environment()
        before = environment.get("PYTHONPATH")
        path = [str(self.box.top / "no-fuse"), *([before] if before else [])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        command = [program_path("umktls"), *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, **(pipes | how))

    def __call__(self, name: str, *arguments: object) -> Done:
        process = self.start(name, *arguments, "--certs", self.box.certs)
        try:
            out, err = process.communicate(timeout=patience(40))
        finally:
            process.kill()
        return Done(process.returncode, out, err.decode())


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    """Served with TLS, on IPv6 too where there is that."""
    with Sandbox("urls") as box:
        layout.create(box.certs)
        hidden = box.directory("no-fuse") / "pyfuse3.py"
        hidden.write_text(f"raise ImportError({NO_FUSE!r})\n")
        host, _ = box.serve("--certs", str(box.certs))
        export = box.export
        (export / "d" / "e").mkdir(parents=True)
        (export / "file").write_text("hello\n")
        (export / "d" / "second").write_text("again\n")
        (export / "link").symlink_to("file")
        with open(os.fsencode(export) + b"/d/" + ODD, "wb") as file:
            file.write(os.urandom(3_000_000))
        yield Remote(box, export, f"nfs://127.0.0.1:{host.facts['port']}{export}")
        assert [one.name for one in box.hosts()] == [host.name]


def test_ls(remote: Remote) -> None:
    assert remote("ls", remote.url).text == "d\nfile\nlink\n"
    lines = remote("ls", "-lR", remote.url).text.splitlines()
    assert [line.split(maxsplit=7)[-1] for line in lines] == [
        "d",
        "d/caf\\xe9 \\x1b[31m",
        "d/e",
        "d/second",
        "file",
        "link -> file",
    ]
    assert lines[0].startswith("drwx")


def test_json_has_urls_that_work(remote: Remote) -> None:
    """Of a name that is no UTF-8 too."""
    listed = remote("ls", "--json", remote.url + "/d").json
    assert listed["schema"] == 1
    assert listed["failed"] == []
    odd, inner, second = listed["entries"]
    assert os.fsencode(odd["name"]) == ODD
    assert (inner["type"], second["size"]) == ("directory", 6)
    data = remote("cat", odd["url"]).out
    assert data == Path(os.fsdecode(os.fsencode(remote.export) + b"/d/" + ODD)).read_bytes()


@pytest.mark.long
def test_stat_is_of_a_file_with_a_url_and_of_hosts_without(remote: Remote) -> None:
    (link,) = remote("stat", "--json", remote.url + "/link").json["files"]
    assert (link["type"], link["target"]) == ("link", "file")
    (file,) = remote("stat", "-L", "--json", remote.url + "/link").json["files"]
    known = (remote.export / "file").stat()
    assert (file["size"], file["fileid"], file["mtime_ns"]) == (6, known.st_ino, known.st_mtime_ns)
    assert "   Size: 6 bytes" in remote("stat", remote.url + "/file").text
    process = remote.start("stat", "--json")
    hosts, _ = process.communicate(timeout=patience(40))
    assert len(json.loads(hosts)["hosts"]) == 1


def test_what_fails_is_told_and_the_rest_is_done(remote: Remote) -> None:
    """Exit code 1, as coreutils have it."""
    url = remote.url
    done = remote("cat", f"{url}/no", f"{url}/file", f"{url}/d", f"{url}/d/second")
    assert (done.code, done.out) == (1, b"hello\nagain\n")
    assert done.err.splitlines() == [
        f"umktls: {remote.export}/no: No such file or directory",
        f"umktls: {remote.export}/d: this is a directory, and no file",
    ]
    done = remote("ls", "--json", url + "/no")
    assert (done.code, done.json["entries"]) == (1, [])
    assert done.json["failed"] == [f"{remote.export}/no: No such file or directory"]


def test_the_root_of_a_server_with_one_export(remote: Remote) -> None:
    """It is mounted as "/" too, which is in no list."""
    root = remote.url.removesuffix(str(remote.export))
    assert remote("cat", root + "/file").text == "hello\n"
    done = remote("cat", root + "/elsewhere")
    assert (done.code, done.err) == (1, "umktls: /elsewhere: No such file or directory\n")


def test_what_is_not_exported(remote: Remote) -> None:
    with Sandbox("urls2") as box:
        (box.top / "exports").write_text(f"{box.export}\n{box.top}\n")
        certs = ("--certs", str(remote.box.certs))
        host, _ = box.serve("--exports", str(box.top / "exports"), *certs)
        done = remote("ls", f"nfs://127.0.0.1:{host.facts['port']}/elsewhere", "-o", "notls")
    assert done.code == 1
    text = f"exports nothing that /elsewhere lies in; it lists {box.export}, {box.top}\n"
    assert done.err.endswith(text)


def test_a_url_that_is_none_is_wrong_usage(remote: Remote) -> None:
    done = remote("cat", "nfs://me@host/file")
    assert done.code == 2
    assert "NFS knows no user by name" in done.err


def test_without_certificates_nothing_is_sent(remote: Remote) -> None:
    process = remote.start("ls", remote.url)
    _, err = process.communicate(timeout=patience(40))
    assert process.returncode == 1
    assert b"pass --certs DIR" in err


def test_whoever_reads_may_stop(remote: Remote) -> None:
    """As `| head -c 5` does: no word about it."""
    process = remote.start("cat", f"{remote.url}/d/{quoted(ODD)}", "--certs", remote.box.certs)
    assert process.stdout is not None
    assert process.stderr is not None
    assert len(os.read(process.stdout.fileno(), 5)) == 5
    process.stdout.close()
    assert process.wait(patience(40)) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def quoted(name: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in name)


def test_a_mount_says_that_it_needs_pyfuse3(remote: Remote) -> None:
    source = remote.url.removeprefix("nfs://").replace("/", ":/", 1)
    done = remote("mount", source, remote.box.mountpoint)
    assert done.code == 32
    assert NO_FUSE in done.err
    assert "Traceback" not in done.err


def test_ipv6_in_clear_by_the_url_alone(remote: Remote) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")
    with Sandbox("urls6") as box:
        (box.export / "file").write_text("six\n")
        host, _ = box.serve("--certs", str(remote.box.certs), "--host", "::1")
        url = f"nfs://[::1]:{host.facts['port']}{box.export}/file?xprtsec=none&version=3"
        assert remote("cat", url).text == "six\n"


# ---- copying and removing


@pytest.mark.long
def test_cp_both_ways_with_digests(remote: Remote, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "empty").mkdir(parents=True)
    for number in range(300):
        (source / str(number)).write_text(str(number))
    (source / os.fsdecode(ODD)).write_bytes(os.urandom(20_000_000))
    (source / "link").symlink_to("7")
    up = remote("cp", "-r", "--json", "--check", source, remote.url + "/").json
    assert (up["files"], up["links"], up["directories"], up["failed"]) == (301, 1, 2, [])
    down = remote("cp", "-r", remote.url + "/tree", tmp_path / "back", "--check")
    assert (down.code, down.err) == (0, "")
    assert len(down.out.splitlines()) == 301
    subprocess.run(["diff", "-r", "--no-dereference", source, tmp_path / "back"], check=True)
    again = remote("put", "-r", "--json", source, remote.url + "/").json
    assert (again["files"], again["skipped"]) == (0, 301)
    assert remote("rm", "-r", remote.url + "/tree").text == ""
    assert not (remote.export / "tree").exists()


@pytest.mark.long
def test_a_copy_that_was_interrupted_is_gone_on_with(remote: Remote, tmp_path: Path) -> None:
    """In the midst of it, when the bar says so; the same again goes on with what is there."""
    (remote.export / "big").write_bytes(os.urandom(1 << 20) * 300)
    with on_terminal(remote, "cp", remote.url + "/big", tmp_path) as (process, shown):
        read_until(shown, rb"[1-9][0-9.]*/300.0 MiB")
        process.send_signal(signal.SIGINT)
        said = read_until(shown, rb"\Z.")
        assert process.wait(patience(40)) == 128 + signal.SIGINT
    assert b"umktls: ended by SIGINT" in said
    (part,) = tmp_path.iterdir()
    before = part.stat()
    assert 0 < before.st_size < 300 << 20
    assert remote("cp", remote.url + "/big", tmp_path, "--check").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["big"]
    assert (tmp_path / "big").stat().st_ino == before.st_ino
    (remote.export / "big").unlink()


@contextlib.contextmanager
def on_terminal(
    remote: Remote, *arguments: object
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command whose stderr is a terminal, and the other end of that."""
    leader, follower = os.openpty()
    process = remote.start(*arguments, "--certs", remote.box.certs, stderr=follower)
    os.close(follower)
    try:
        yield process, leader
    finally:
        process.kill()
        process.communicate(timeout=patience(40))
        os.close(leader)


def read_until(terminal: int, pattern: bytes) -> bytes:
    """What is shown until something is, or until its end."""
    shown = b""
    while not re.search(pattern, shown):
        readable, _, _ = select.select([terminal], [], [], patience(40))
        assert readable, shown
        try:
            shown += os.read(terminal, 10000)
        except OSError:  # EIO: whoever wrote has ended
            break
    return shown


@pytest.mark.long
def test_a_bar_on_a_terminal(remote: Remote, tmp_path: Path) -> None:
    """And nothing of it anywhere else."""
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    arguments = ("put", tmp_path / "file", remote.url + "/bar")
    with on_terminal(remote, *arguments) as (process, terminal):
        shown = read_until(terminal, rb"\Z.")
        assert process.wait(patience(40)) == 0
    assert b"1 files" in shown
    assert b"2.9/2.9 MiB" in shown
    (remote.export / "bar").unlink()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("cp", "a", "b"), "one side has to be nfs://"),
        (("cp", "nfs://h/a", "nfs://h/b"), "from server to server"),
        (("cp", "nfs://h/a", "b", "nfs://h/c"), "from server to server"),
        (("cp", "nfs://h/a", "b", "c"), "one side has to be"),
        (("cp", "nfs://h/a", "nfs://h/b", "/no/such"), "is no directory"),
        (("put", "a", "b"), "is not nfs://"),
    ],
)
def test_wrong_usage_of_copies(remote: Remote, arguments: tuple[str, ...], text: str) -> None:
    done = remote(*arguments)
    assert done.code == 2
    assert text in done.err


@pytest.mark.long
def test_the_example_of_the_page(remote: Remote, tmp_path: Path) -> None:
    """docs/mounting.md, with other places."""
    page = (Path(__file__).parents[2] / "docs" / "mounting.md").read_text()
    found = re.search(r"^```\n(\$ umktls ls.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    (remote.export / "greeting").write_text("hello\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("x")
    root = remote.url.removesuffix(str(remote.export))
    for line in found[1].splitlines():
        words = line.removeprefix("$ umktls ").replace("/tmp/", f"{tmp_path}/").split()
        words = [word.replace("nfs://localhost", root) for word in words]
        done = remote(*words[: words.index("--certs")])
        assert (done.code, done.err) == (0, "")
    assert (tmp_path / "copy").read_text() == "hello\n"
    assert not (remote.export / "backup").exists()
