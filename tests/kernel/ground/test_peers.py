"""Whose turn it is among clients, by network and address."""

from __future__ import annotations

import pytest

from umktls.kernel.ground.peers import Crowd, FairQueue, Who, who


@pytest.mark.parametrize(
    ("host", "network", "address"),
    [
        ("192.0.2.77", "192.0.2.0/24", "192.0.2.77/32"),
        ("::ffff:192.0.2.77", "192.0.2.0/24", "192.0.2.77/32"),
        ("[2001:db8:1:2:3::4]", "2001:db8:1::/48", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/48", "fe80::/64"),
        ("", "", ""),
        ("a name", "a name", "a name"),
    ],
)
def test_who(host: str, network: str, address: str) -> None:
    assert who(host) == Who(network, address)


def queue_of(*items: str) -> FairQueue[str]:
    """Each is `network address number`."""
    queue: FairQueue[str] = FairQueue()
    for item in items:
        queue.add(key(item), item)
    return queue


def key(item: str) -> Who:
    network, address, _ = item.split()
    return Who(network, address)


def test_turns_go_round_among_networks_and_then_addresses() -> None:
    crowd = [f"n1 a1 {number}" for number in range(4)]
    queue = queue_of(*crowd, "n1 a2 0", "n2 b1 0", "n2 b1 1")
    assert len(queue) == 7
    assert list(queue.clear()) == [
        "n1 a1 0",
        "n2 b1 0",
        "n1 a2 0",
        "n2 b1 1",
        "n1 a1 1",
        "n1 a1 2",
        "n1 a1 3",
    ]
    assert not len(queue)


def test_who_leaves_has_no_turn() -> None:
    queue = queue_of("n1 a1 0", "n1 a1 1", "n2 b1 0")
    for item in ("n1 a1 0", "n1 a1 0", "n2 b1 0", "n3 c1 0"):
        queue.remove(key(item), item)
    assert [item for _, item in queue.turns()] == ["n1 a1 1"]
    assert len(queue) == 1


def test_a_crowd() -> None:
    crowd = Crowd()
    for item in ("n1 a1 0", "n1 a1 1", "n1 a2 0", "n2 b1 0"):
        crowd.add(key(item))
    assert crowd.of(Who("n1", "a1")) == (3, 2)
    crowd.add(Who("n1", "a1"), -2)
    assert crowd.of(Who("n1", "a1")) == (1, 0)
    assert crowd.of(Who("n9", "z")) == (0, 0)
