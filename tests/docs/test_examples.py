"""All blocks of README.md and docs/*.md: which test runs each, or why none does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from umktls_fs.options import parse_options

from tests.conftest import patience
from tests.ports import free_port
from tests.system.live import needs_fuse
from umktls.cli.sandbox import Sandbox
from umktls.front.clients import parse_clients
from umktls.nfsd.exports.file import parse_exports

TOP = Path(__file__).parents[2]
PAGES = (TOP / "README.md", *sorted((TOP / "docs").glob("*.md")))
PICTURE = "a picture"

# (page, how the block begins) -> the test that runs it, or the reason why none does.
BLOCKS = {
    ("README.md", "make demo"): "tests/packaging, .ci/run: they are what is run there",
    ("README.md", "$ export PATH"): "test_the_first_session",
    ("README.md", "# ln -s"): "changes /etc/fstab; tests/system has mount(8)'s helper do it",
    ("README.md", "        client host"): PICTURE,
    ("architecture.md", "        client host"): PICTURE,
    ("captures.md", "$ umktls serve"): "tests/system/test_own_captures.py: the same, on loopback",
    ("captures.md", "$ tshark"): "tests/system/test_own_captures.py: by the same fields",
    ("daemons.md", "# directories"): "test_exports_are_read",
    ("daemons.md", "mount -t nfs"): "test_serve_ready.py: as a server says it, on other kernels",
    ("lessons.md", "$ umktls lesson"): "tests/lessons: each of them is played",
    ("front.md", "$ umktls certs"): "tests/front/test_command.py: the same, on loopback",
    ("front.md", "# whom"): "test_clients_are_read",
    ("front.md", "NFS_CORE_PARAM"): "there is no Ceph; tests/peers/test_front.py has a tmpfs",
    ("front.md", "# umktls front"): "tests/peers/test_front.py: the same, on loopback",
    ("mounting.md", "# ln -s"): "changes the machine; test_doctor.py has the same lines",
    ("mounting.md", "$ umktls mount"): "test_the_first_session: the same words",
    ("mounting.md", "$ umktls ls"): "tests/system/test_urls.py",
    ("mounting.md", "nfs.example.org:/ "): "test_options_are_taken",
    ("mounting.md", "nfs  -fstype"): "test_options_are_taken",
    ("troubleshooting.md", "$ umktls doctor"): "test_the_first_session: behind it",
    ("unmodified.md", "$ cat ktls.cnf"): "tests/run/test_openssl.py: the same, on a free port",
    (
        "unmodified.md",
        "# umktls serve /srv/export --no",
    ): "tests/run/test_agents_of_hosts.py: agents of its own",
    (
        "unmodified.md",
        "# umktls serve /srv/export --p",
    ): "tests/run/test_agents_of_hosts.py: agents of its own",
    ("watch.md", "$ umktls watch"): "tests/watch/test_live.py: without --open",
    ("wire.md", "daemon: rpctls"): "test_vectors.py",
    ("writing-a-daemon.md", "$ umktls run-daemon"): "test_example.py",
    ("writing-a-daemon.md", "$ umktls mount"): "test_example.py",
    ("writing-a-daemon.md", "kernel = Kernel("): "test_example.py",
    ("writing-a-daemon.md", "with HandshakeAgent("): "tests/system/test_agents.py: its program",
    ("writing-a-daemon.md", "import sys"): "tests/testing/test_own_daemon.py",
    ("writing-a-daemon.md", "from umktls.rpc"): "tests/testing/test_own_daemon.py",
}


def blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for text in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page.name, text


def block(page: str, start: str) -> str:
    return next(text for name, text in blocks() if (name, text[: len(start)]) == (page, start))


def typed(text: str) -> list[str]:
    return [line[2:].partition("  #")[0] for line in text.splitlines() if line.startswith("$ ")]


def test_each_block_has_its_place_in_the_table() -> None:
    unknown = []
    used = set()
    for name, text in blocks():
        keys = [key for key in BLOCKS if key[0] == name and text.lstrip("\n").startswith(key[1])]
        used.update(keys)
        unknown += [] if keys else [(name, text.splitlines()[0])]
    assert unknown == []
    assert used == set(BLOCKS)


def first_session() -> list[str]:
    """README.md's lines; what other pages have typed at such a mount comes before its end."""
    lines = typed(block("README.md", "$ export PATH"))
    end = lines.index("umktls umount /tmp/mnt")
    mount, umount = typed(block("mounting.md", "$ umktls mount"))
    lines[end:end] = typed(block("troubleshooting.md", "$ umktls doctor"))
    lines[end + 3 : end + 3] = [umount, mount]
    return lines


@pytest.mark.long
def test_the_first_session() -> None:
    """In other places."""
    needs_fuse()
    lines = first_session()
    (serve,) = (number for number, line in enumerate(lines) if line.rstrip().endswith("&"))
    with Sandbox("readme") as box:
        port = free_port()
        place = Path(tempfile.mkdtemp(prefix="umktls-"))
        place.chmod(0o755)  # root of the client is nobody there
        lines[serve] = lines[serve].replace(
            "&", f"--port {port} --state {box.top}/state >{place}/ready &"
        )
        lines[serve] += f"\nuntil [ -s {place}/ready ]; do sleep 0.05; done"
        script = "\n".join(["set -em", *lines, "wait"]).replace(
            "localhost:/", f"localhost:{port}:/"
        )
        script = script.replace("$PWD/.venv/bin", str(Path(sys.executable).parent))
        for name in ("pki", "data", "mnt"):
            script = script.replace(f"/tmp/{name}", f"{place}/{name}")
        with (place / "said").open("w+") as output:
            try:
                done = subprocess.run(
                    ["timeout", "-k", "5", str(patience(45)), "bash", "-c", script],
                    env=box.environment(),
                    cwd=TOP,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                output.seek(0)
                said = output.read()
            finally:
                subprocess.run(["umount", "-l", place / "mnt"], check=False, capture_output=True)
                shutil.rmtree(place)
    assert done.returncode == 0, said
    assert "\nhello\n" in said
    assert "nothing is lacking" in said


def test_options_are_taken() -> None:
    """All of fstab(5) and autofs(5), as `umktls mount` reads them."""
    page = (TOP / "docs" / "mounting.md").read_text()
    fstab = "".join(re.findall(r"```fstab\n(.*?)```", page, re.DOTALL))
    table = [line.split() for line in fstab.splitlines()]
    assert len(table) == 3
    for _, mountpoint, kind, options, *numbers in table:
        assert mountpoint.startswith("/")
        assert kind in ("umktls", "fuse.umktls")
        assert numbers == ["0", "0"]
        assert parse_options([options]).security == "mtls"
    (entry,) = re.findall(r"```autofs\n(.*?)```", page, re.DOTALL)
    kind, options = entry.split()[1].split(",", 1)
    assert kind == "-fstype=fuse.umktls"
    assert parse_options([options]).security == "mtls"


def test_clients_are_read() -> None:
    text = block("front.md", "# whom").replace("-ca=/etc/pki/staff.pem ", "")
    clients = parse_clients(text, "front.md")
    assert [line.level for line in clients.lines] == [1, 0, 2, 2]


def test_exports_are_read(tmp_path: Path) -> None:
    """With directories that are there, and without the name and the CA that are not."""
    text = block("daemons.md", "# directories").replace("host.example.org", "192.0.2.7")
    text = text.replace("-ca=/etc/pki/staff.pem ", "")
    text = re.sub(r"/(?=(?:srv|home)\b)", f"{tmp_path}/", text)
    for path in re.findall(rf"{tmp_path}\S+", text):
        Path(path).mkdir(parents=True)
    assert len(parse_exports(text, "the page")) == 5


def quoted() -> list[str]:
    page = (TOP / "docs" / "troubleshooting.md").read_text()
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


@pytest.mark.parametrize("phrase", quoted())
def test_troubleshooting_speaks_of_what_lines_say(phrase: str) -> None:
    sources = (path for top in ("umktls", "fs", "daemons") for path in (TOP / top).rglob("*.py"))
    assert any(phrase in path.read_text() for path in sources)


def test_readme_lists_all_pages() -> None:
    text = (TOP / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"`docs/{page.name}`" not in text] == []
