"""For tests of what is built on umktls: a pytest plugin, and what its fixtures are made of.

The plugin is found by pytest where umktls is installed. Its fixtures (`umktls.testing.plugin`):

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

    async def test_a_daemon_that_sleeps(umktls_joined, autojump_clock):
        async with umktls_joined() as both:
            both.client_daemon.silent = True
            with pytest.raises(UmktlsError):
                await both.rpc.call(SAY, b"hello", NULL_AUTH)

    async def test_a_record_is_lost(umktls_joined, autojump_clock):
        async with umktls_joined() as both:
            both.wire.fault("to_server", drop(), skip=2)   # probe and first call go through
            ...

Any host can have another kernel's behaviour (`umktls.abi.personality`):

        async with umktls_pair(server={"personality": PERSONALITIES["freebsd14"]}) as both: ...
        async with umktls_joined(client=PERSONALITIES["linux"]) as both: ...

Everything is an async context manager for trio; no fixture needs pytest-trio by itself.
"""
