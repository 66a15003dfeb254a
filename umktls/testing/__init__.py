"""For tests of what is built on umktls: a pytest plugin, and what its fixtures are made of.

Begin with plugin.py, which pytest finds where umktls is installed. Its fixtures:

    umktls_wallet      certificates of every kind, good and bad (umktls.certs.kinds)
    umktls_rundir      a directory with a path short enough for sockets
    umktls_server      a server host:  async with umktls_server() as listening: ...
    umktls_client      a client host:  async with umktls_client(port) as mount: ...
    umktls_pair        both, with RPC between them
    umktls_joined      both in memory, for a virtual clock; the wire between them has fault switches

The first three kinds of hosts are real: daemons as processes, sockets on this machine.
`umktls_joined` has neither: one event loop, pairs of sockets, daemons that are played
(`umktls.testing.standin`) and set keys that both sides know. So time may be trio's MockClock, and
deadlines cost nothing:

    import pytest

    from umktls.abi.personality import PERSONALITIES
    from umktls.errors import UmktlsError
    from umktls.rpc.message import NULL_AUTH
    from umktls.testing.echo import SAY
    from umktls.testing.wire import alter

    async def test_a_daemon_that_sleeps(umktls_joined, autojump_clock):
        async with umktls_joined() as both:
            both.client_daemon.silent = True
            with pytest.raises(UmktlsError):
                await both.rpc.call(SAY, b"hello", NULL_AUTH)

    async def test_a_record_is_spoilt(umktls_joined, autojump_clock):
        async with umktls_joined() as both:
            both.wire.fault("to_server", alter(), skip=2)  # probe and first call get through
            for _ in range(3):
                assert await both.rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"
            assert both.events("client", "reconnect")

Any host can have another kernel's behaviour (`umktls.abi.personality`):

    async def test_other_kernels(umktls_joined, autojump_clock):
        kernels = {"client": PERSONALITIES["linux"], "server": PERSONALITIES["freebsd14"]}
        async with umktls_joined(**kernels) as both:
            assert await both.rpc.call(SAY, b"hello", NULL_AUTH) == b"hello"

(With `umktls_pair`: `umktls_pair(server={"personality": PERSONALITIES["freebsd14"]})`.)

A daemon of one's own takes the place of ours, in all real hosts, by a fixture in conftest.py:

    umktls_daemons     {"client": command, "server": command}, or one of them

docs/writing-a-daemon.md has an example. Everything is an async context manager for trio; no fixture
needs pytest-trio by itself, the tests above do, with its `trio_mode = true`.
"""
