"""certs, stat, trace and umount as somebody types them."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.cli.fakes import fake_host
from umktls.cli import umount
from umktls.cli.away import amount
from umktls.cli.control import nobody
from umktls.cli.main import main
from umktls.cli.trace import line
from umktls.errors import WorldError
from umktls.kernel.host import mountinfo

STATE: dict[str, Any] = {
    "schema": 1,
    "host": {"role": "server", "pid": 7, "name": "server-7", "personality": "umktls", "started": 0},
    "mount": {"what": "h:/srv", "mountpoint": "/mnt", "security": "tls"},
    "exports": ["/srv/data"],
    "daemons": [{"name": "rpctlssd", "pid": 8, "path": "/run/x"}],
    "connections": [
        {
            "id": "s1",
            "peer": "127.0.0.1:900",
            "state": "open",
            "tls": {"version": "TLSv1.3", "suite": "TLS_AES_128_GCM_SHA256", "peer": "c\x1b[2J"},
            "tx": {
                "engine": "software",
                "mode": "SW",
                "sequence": 12,
                "records": 11,
                "bytes": 2048,
            },
            "rx": {"engine": "bounce", "mode": "NONE", "sequence": 34, "records": 33, "bytes": 5},
            "rpc": {"calls": 56, "replies": 55, "rejected": 0},
            "upcalls": {"connect": 1, "handlerecord": 2, "disconnect": 0},
            "daemon": "process 8",
        },
        {"id": "s2", "peer": "127.0.0.1:901", "state": "closed", "tls": None},
        {"id": "s3", "peer": "127.0.0.1:902", "state": "established", "daemon": "orphan"},
    ],
    "totals": {"connections": 2, "rpcs": 56, "bytes_tx": 3 << 20, "handshakes": 1},
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMKTLS_RUNDIR", str(tmp_path / "run"))
    return tmp_path / "run"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_certs_lists_what_it_made_and_refuses_a_second_time(tmp_path: Path) -> None:
    target = tmp_path / "pki"
    first = run("certs", str(target), "--host", "nfs.example.org", "--user", "ada@example.org")
    assert first.exit_code == 0
    assert first.output.splitlines()[0] == f"{target}/ca.pem"
    assert all(Path(made).exists() for made in first.output.splitlines())
    second = run("certs", str(target))
    assert second.exit_code == 1
    assert second.stderr.startswith(f"umktls: {target}/ca.pem exists already")
    assert run("certs", str(target), "--force").exit_code == 0


@pytest.mark.parametrize("table", [(), ("--sysctl",), ("--tls_stat",)])
def test_stat_without_hosts(base: Path, table: tuple[str, ...]) -> None:
    assert (
        run("stat", *table).output
        == f"no host runs (looked in {base}; UMKTLS_RUNDIR=DIR looks in another place)\n"
    )
    assert json.loads(run("stat", "--json", *table).output) == {"schema": 1, "hosts": []}


def test_stat_shows_each_direction(base: Path) -> None:
    with fake_host(base, "server-7", {"stat": [json.dumps(STATE).encode()]}):
        shown = run("stat").output
        everything = json.loads(run("stat", "--json").output)
    assert everything == {"schema": 1, "hosts": [STATE]}
    rows = [" ".join(row.split()) for row in shown.splitlines()]
    assert "s1 127.0.0.1:900 open, TLSv1.3, TLS_AES_128_GCM_SHA256, peer c\\x1b[2J" in rows
    assert "tx software SW 12 11 2.0 KiB" in rows
    assert "rx bounce NONE 34 33 5 B" in rows
    asked = "upcalls: connect 1, handlerecord 2"
    assert f"56 calls, 55 replies, {asked}; its daemon: process 8" in rows
    orphan = "orphan: its daemon has gone, and another one may adopt it"
    assert f"0 calls, 0 replies; {orphan}" in rows
    assert "s2 127.0.0.1:901 closed, clear text" in rows
    assert "mount: h:/srv at /mnt (tls)" in rows
    assert "exports: /srv/data" in rows
    assert "daemons: rpctlssd (process 8)" in rows
    assert "3.0 MiB" in shown
    assert "\x1b" not in shown


def test_stat_goes_on_where_one_host_is_deaf(base: Path) -> None:
    with fake_host(base, "server-7", {"stat": [b"nonsense"]}):
        result = run("stat", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["hosts"] == []
    assert "umktls: the host answered what is not JSON" in result.stderr


def test_trace_past_prints_one_line_each(base: Path) -> None:
    fields = {"side": "client", "host": "client-7", "connection": "c1", "event": "probe"}
    event = {"time": 1.5, **fields, "text": "p\n\x1b"}
    with fake_host(base, "client-7", {"trace": [json.dumps(event).encode()]}):
        people = run("trace", "--past").output
        programs = run("trace", "--past", "--json").output
    day = datetime.fromtimestamp(1.5).strftime("%Y-%m-%d")
    assert people.startswith(day)
    assert people.endswith("01.500000 client-7     c1   p\\x0a\\x1b\n")
    assert json.loads(programs) == event


def test_trace_follows_to_the_end(base: Path) -> None:
    with fake_host(base, "client-7", {"trace": [b'{"time": 1, "text": "hello"}']}) as requests:
        assert run("trace", "--since", "5", "client-7").output.endswith("hello\n")
    assert requests[0]["follow"] is True


@pytest.mark.parametrize("arguments", [["--past"], ["--past", "client-7"], ["client-7"]])
def test_trace_without_hosts_says_so(base: Path, arguments: list[str]) -> None:
    result = run("trace", *arguments)
    assert result.exit_code == 1
    assert result.stderr == f"umktls: {nobody(base)}\n"


def test_stat_names_the_personality(base: Path) -> None:
    with fake_host(base, "server-7", {"stat": [json.dumps(STATE).encode()]}):
        assert "process 7, since " in (said := run("stat").output)
    assert "personality umktls" in said


def test_rekey_asks_each_host_and_counts(base: Path) -> None:
    one, two = {"rekey": [b'{"rekeyed": 2}']}, {"rekey": [b'{"rekeyed": 0}']}
    with fake_host(base, "client-1", one) as requests, fake_host(base, "server-2", two):
        result = run("rekey", "--connection", "c1")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "client-1: 2 connections have new keys",
        "server-2: 0 connections have new keys",
    ]
    assert requests == [{"op": "rekey", "connection": "c1", "how": None}]


def test_rekey_goes_on_to_the_next_host_where_one_cannot(base: Path) -> None:
    refusal = {"rekey": [b'{"error": "takes no second key", "errno": "EOPNOTSUPP"}']}
    able = {"rekey": [b'{"rekeyed": 1}']}
    with fake_host(base, "client-1", refusal), fake_host(base, "server-2", able):
        result = run("rekey")
    assert (result.exit_code, result.stdout) == (0, "server-2: 1 connections have new keys\n")
    assert result.stderr == "client-1: the host refused: takes no second key\n"


def test_rekey_says_what_was_done(base: Path) -> None:
    answer = {"rekey": [b'{"rekeyed": 1, "reconnected": 2}']}
    with fake_host(base, "client-1", answer) as requests:
        result = run("rekey", "--how", "auto")
    done = "client-1: 1 connections have new keys, 2 are replaced by new ones, with new keys"
    assert (result.exit_code, result.output) == (0, f"{done}\n")
    assert requests == [{"op": "rekey", "connection": None, "how": "auto"}]
    with fake_host(base, "client-2", answer):
        result = run("rekey", "client-2")
    assert "(--how keyupdate keeps those whose peer follows it)" in result.output


def test_rekey_says_what_came_of_it(base: Path) -> None:
    """Above all that a connection has ended by it."""
    one = {"rekey": [b'{"rekeyed": 4, "reconnected": 0, "ended": 1, "unanswered": 2}']}
    with fake_host(base, "client-1", one):
        result = run("rekey", "--how", "keyupdate")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            "client-1: 3 connections have new keys (2 for what is sent: the peer has not "
            "answered yet), 1 have ended: the peer did not follow the KeyUpdate, as Linux before "
            "6.14 and FreeBSD do not"
        ],
    )
    one = {"rekey": [b'{"rekeyed": 1, "reconnected": 0, "ended": 1}']}
    with fake_host(base, "client-2", one):
        result = run("rekey", "client-2", "--how", "keyupdate")
    assert result.exit_code == 1
    assert result.stdout.startswith("client-2: 0 connections have new keys, 1 have ended: ")
    assert "no connection has outlived the KeyUpdate" in result.stderr


def test_rekey_of_nothing_is_an_error(base: Path) -> None:
    with fake_host(base, "client-1", {"rekey": [b'{"rekeyed": 0}']}):
        result = run("rekey")
    assert result.exit_code == 1
    assert "umktls: no connection got new keys: is one open" in result.stderr
    refusal = {"rekey": [b'{"error": "takes no second key", "errno": "EOPNOTSUPP"}']}
    with fake_host(base, "client-2", refusal):
        result = run("rekey", "client-2")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == ["umktls: no connection got new keys: see above"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


def test_line_of_an_event_without_fields() -> None:
    assert line({}) == "---------- --:--:--.------ ?            -    {}"


MOUNTINFO = r"""21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /mnt/with\040space rw - fuse.umktls 127.0.0.1:/ rw
31 21 0:41 / /mnt/both rw - tmpfs tmpfs rw
32 31 0:42 / /mnt/both rw shared:2 master:3 - fuse.umktls srv:/ rw
"""


def test_mountinfo_is_read_with_escapes_and_the_topmost_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO)
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)
    types = umount.mounts()
    assert types[Path("/mnt/with space")] == "fuse.umktls"
    assert types[Path("/mnt/both")] == "fuse.umktls"
    assert types[Path("/")] == "ext4"


def test_umount_of_what_is_no_mount(tmp_path: Path) -> None:
    result = run("umount", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"umktls: nothing is mounted at {tmp_path}")


def test_umount_of_somebody_elses_mount() -> None:
    result = run("umount", "/proc")
    assert result.exit_code == 1
    assert "umktls: /proc is a mount of type proc, not of umktls" in result.stderr


def test_umount_follows_links_to_the_mountpoint_only_above_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert umount.resolved(tmp_path / "link" / "m") == tmp_path.resolve() / "real" / "m"
    relative = Path(os.path.relpath(tmp_path / "real" / "m"))
    assert umount.resolved(relative) == tmp_path.resolve() / "real" / "m"


@pytest.mark.parametrize(
    ("stderr", "text"),
    [
        ("fusermount3: failed to unmount /m: Device or resource busy", "/m is in use"),
        ("fusermount3: entry for /m not found", "cannot unmount /m: fusermount3: entry for"),
        (None, "fusermount3 is not there: install"),
    ],
)
def test_what_fusermount_says_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str | None, text: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if stderr is not None:
        program = tmp_path / "fusermount3"
        program.write_text(f"#!/bin/sh\necho '{stderr}' >&2\nexit 1\n")
        program.chmod(0o755)
    with pytest.raises(WorldError) as caught:
        umount.run_fusermount(Path("/m"), lazy=False)
    assert text in str(caught.value)
