"""`umktls showmount`: as showmount(8) shows it, of a server that is played."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from tests.conftest import patience
from tests.kernel.krpc.rpcpeer import Answer, answers, peer
from umktls.cli import showmount_run
from umktls.cli.main import main
from umktls.kernel.ground.groups import single_error
from umktls.kernel.krpc import rpcbind
from umktls.kernel.krpc.mountd import NoMountd
from umktls.nfs.mount import exportnode, groupnode, mountbody
from umktls.nfs.program import MOUNT3
from umktls.rpc.rpcbind import PMAP2

SECONDS = 20
MOUNTS = [
    mountbody(b"b.example.org", b"/srv/one"),
    mountbody(b"a.example.org", b"/srv/one"),
    mountbody(b"a.example.org", b"/srv/\x1btwo"),
]
EXPORTS = [
    exportnode(b"/srv/one", [groupnode(b"192.0.2.0/24"), groupnode(b"*.example.org")]),
    exportnode(b"/srv", []),
]
FULL = answers(MOUNT3, DUMP=lambda _: MOUNTS, EXPORT=lambda _: EXPORTS)


def shown(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, *options: str, port: bool = True
) -> Result:
    """What the command says of a server that answers so, which it is given by its port, or which
    rpcbind knows."""
    asked = showmount_run.asked

    async def with_server(host: str, number: int | None, procedure: str, seconds: float) -> Any:
        with trio.fail_after(patience(SECONDS)), single_error():
            async with (
                peer(answer) as server,
                peer(answers(PMAP2, GETPORT=lambda _: server.port)) as mapper,
            ):
                monkeypatch.setattr(rpcbind, "RPCBIND_PORT", mapper.port)
                return await asked(host, server.port if port else None, procedure, seconds)

    monkeypatch.setattr(showmount_run, "asked", with_server)
    return CliRunner().invoke(main, ["showmount", "127.0.0.1", *options])


@pytest.mark.parametrize("port", [True, False])
@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ((), ["Hosts on 127.0.0.1:", "a.example.org", "b.example.org"]),
        (("-d",), ["Directories on 127.0.0.1:", "/srv/\\x1btwo", "/srv/one"]),
        (
            ("-a",),
            [
                "All mount points on 127.0.0.1:",
                "a.example.org:/srv/\\x1btwo",
                "a.example.org:/srv/one",
                "b.example.org:/srv/one",
            ],
        ),
        (
            ("-e",),
            [
                "Export list for 127.0.0.1:",
                "/srv     (everyone)",
                "/srv/one 192.0.2.0/24,*.example.org",
            ],
        ),
        (("-e", "--no-headers"), ["/srv     (everyone)", "/srv/one 192.0.2.0/24,*.example.org"]),
    ],
)
def test_as_showmount_has_it(
    option: tuple[str, ...], lines: list[str], port: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shown(FULL, monkeypatch, *option, port=port)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == lines


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        (
            "-e",
            {
                "exports": [
                    {"path": "/srv/one", "groups": ["192.0.2.0/24", "*.example.org"]},
                    {"path": "/srv", "groups": []},
                ]
            },
        ),
        (
            "-a",
            {
                "mounts": [
                    {"host": "b.example.org", "path": "/srv/one"},
                    {"host": "a.example.org", "path": "/srv/one"},
                    {"host": "a.example.org", "path": "/srv/\x1btwo"},
                ]
            },
        ),
    ],
)
def test_for_programs(option: str, wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = shown(FULL, monkeypatch, option, "--json")
    assert json.loads(result.output) == {"schema": 1, "host": "127.0.0.1", **wanted}


def test_nothing_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    result = shown(answers(MOUNT3, EXPORT=lambda _: []), monkeypatch, "-e")
    assert result.output == "Export list for 127.0.0.1:\n"


def test_a_server_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    result = shown(answers(MOUNT3), monkeypatch, "-e")
    assert result.exit_code == 1
    assert result.output == "umktls: the server does not offer this procedure\n"


def test_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["showmount", "[::1"])
    assert result.exit_code == 2
    assert "is not HOST or HOST:PORT" in result.output


async def test_nfs_port_where_rpcbind_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with peer(FULL) as server, peer(FULL, tcp=False, udp=False) as nobody:
            monkeypatch.setattr(rpcbind, "RPCBIND_PORT", nobody.port)
            monkeypatch.setattr(showmount_run, "NFS_PORT", server.port)
            assert await showmount_run.asked("127.0.0.1", None, "EXPORT", SECONDS) == EXPORTS


async def test_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(patience(SECONDS)):
        async with peer(FULL, tcp=False, udp=False) as nobody:
            for name, module in (("RPCBIND_PORT", rpcbind), ("NFS_PORT", showmount_run)):
                monkeypatch.setattr(module, name, nobody.port)
            with pytest.raises(NoMountd) as caught:
                await showmount_run.asked("127.0.0.1", None, "EXPORT", SECONDS)
            assert "HOST:PORT says where it is" in str(caught.value)
            assert str(caught.value).endswith(f", and not at NFS's port {nobody.port} either")
            with pytest.raises(NoMountd, match="Connection refused; is its mountd running"):
                await showmount_run.asked("127.0.0.1", nobody.port, "EXPORT", SECONDS)
