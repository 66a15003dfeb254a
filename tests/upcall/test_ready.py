"""What is ready before it is needed: in a process of its own, where nothing has been used yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import builtins

from umktls.upcall import datagrams, ready, syscalls
from umktls.upcall.rpctls import rpctls_session_res
from umktls.upcall.rpctls2 import rpctls_socket_arg
from umktls.upcall.versions import VERSIONS

real, compiled = builtins.compile, []

def seen(source, name, *rest, **more):
    compiled.append(name)
    return real(source, name, *rest, **more)

def talk(late):
    {prepare}
    builtins.compile = seen
    {use}
    builtins.compile = real

procedure = VERSIONS[2].programs["rpctlssd"]["HANDLERECORD"]
session = rpctls_socket_arg(1)  # CONNECT has brought it
talk(procedure)
print(len(compiled))
"""
DAEMON = """
    datagrams.encode_request(1, syscalls.RecvmsgArgs(1, 2, 3, 4))
    datagrams.encode_request(1, syscalls.SendmsgArgs(1, b"data", b"", 4))
    datagrams.decode_result_untrusted(bytes(20), 27)
    datagrams.decode_result_untrusted(bytes(12), 28)
    procedure.decode_args_untrusted(bytes(8))
    procedure.encode_result(rpctls_session_res(0))
"""
KERNEL = """
    datagrams.decode_request_untrusted(bytes((0, 0, 0, 1, 0, 0, 0, 27)) + bytes(16))
    datagrams.decode_request_untrusted(bytes((0, 0, 0, 1, 0, 0, 0, 28)) + bytes(16))
    datagrams.encode_reply(1, 0, syscalls.RecvmsgResult(b"", b"", 0), 27)
    datagrams.encode_reply(1, 0, 4, 28)
    procedure.encode_args(session)
    procedure.decode_result_untrusted(bytes(4))
"""


@pytest.mark.parametrize(
    ("prepare", "use", "late"),
    [
        ("ready.ready_to_call('rpctlssd')", DAEMON, False),
        ("ready.ready_to_answer('rpctlssd')", KERNEL, False),
        ("pass", DAEMON, True),
        ("pass", KERNEL, True),
    ],
)
def test_nothing_is_compiled_when_the_first_key_update_comes(
    prepare: str, use: str, late: bool
) -> None:
    program = PROGRAM.format(prepare=prepare, use=use.strip())
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert (int(done.stdout) > 0) == late
