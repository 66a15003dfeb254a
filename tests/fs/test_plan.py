"""What a mount is to be, from its source and its options."""

from __future__ import annotations

import pytest
from umktls_fs.options import parse_options
from umktls_fs.plan import MountPlan
from umktls_fs.source import Source

from umktls.errors import CallerError


def plan(text: str) -> MountPlan:
    return MountPlan(Source.parse("server:/export"), "/mnt", parse_options([text]))


def test_an_agent_in_the_place_of_rpctlscd() -> None:
    agent = plan("personality=linux,daemon=tlshd -s").agent()
    assert agent is not None
    assert agent.words == ("tlshd", "-s")
    assert plan("tls").agent() is None


@pytest.mark.parametrize("option", ["mtls,tlscertname=other", "crl=/x", "reversedns", "tls1_2"])
def test_an_agent_has_a_configuration_of_its_own(option: str) -> None:
    assert plan(option).agent() is None
    with pytest.raises(CallerError, match="are about rpctlscd"):
        plan(f"{option},daemon=tlshd").agent()
