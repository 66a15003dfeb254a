"""Choosing engines by name, and listing them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from umktls_fs.options import parse_options

from umktls.cli.main import main
from umktls.errors import CallerError, UnsupportedError
from umktls.kernel.sockets.engines import abilities, chosen_engines
from umktls.ktls.engines import BUILTIN_ENGINES, Route, get_engine, route_of, software
from umktls.ktls.engines.choice import DEFAULT_CHOICE, EngineChoice, parse_engines
from umktls.ktls.engines.software import SoftwareEngine


class OneWay(SoftwareEngine):
    """An engine that can only send."""

    name = "one-way"
    directions = ("tx",)


class Absent(SoftwareEngine):
    """An engine that needs what this machine does not have."""

    name = "absent"

    def problem(self) -> str | None:
        return "there is no such card"


@pytest.fixture
def two_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILTIN_ENGINES, "one-way", OneWay)
    monkeypatch.setitem(BUILTIN_ENGINES, "absent", Absent)


@pytest.mark.parametrize(
    ("text", "tx", "rx"),
    [
        ("software", "software", "software"),
        ("bounce", "bounce", "bounce"),
        ("tx=bounce", "bounce", "software"),
        ("rx=bounce", "software", "bounce"),
        ("rx=null,tx=bounce", "bounce", "null"),
        ("one-way", "one-way", "software"),
        ("tx=one-way,rx=bounce", "one-way", "bounce"),
    ],
)
@pytest.mark.usefixtures("two_more")
def test_the_ways_to_name_engines(text: str, tx: str, rx: str) -> None:
    assert parse_engines(text) == EngineChoice(tx, rx)
    if "," not in text and "=" not in text:
        options = parse_options([f"engine={text}"])
        assert options.engine == EngineChoice(tx, rx)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nix", "no engine 'nix': there are absent, bounce"),
        ("", "no engine ''"),
        ("tx=nix", "no engine 'nix'"),
        ("tx=", "no engine ''"),
        ("tx=null,tx=null", "say NAME, or tx=NAME,rx=NAME"),
        ("tx=null,both=null", "say NAME, or tx=NAME,rx=NAME"),
        ("tx=null,", "say NAME, or tx=NAME,rx=NAME"),
        ("rx=one-way", "engine one-way serves tx only, not rx"),
    ],
)
@pytest.mark.usefixtures("two_more")
def test_names_that_do_not_work(text: str, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        parse_engines(text)


@pytest.mark.usefixtures("two_more")
def test_an_engine_that_cannot_run_here() -> None:
    with pytest.raises(
        UnsupportedError, match=r"engine absent cannot be used here: .* no such card"
    ):
        chosen_engines(EngineChoice(rx="absent"))


def test_null_is_loud() -> None:
    (text,) = parse_engines("rx=null").warnings()
    assert "CLEAR TEXT" in text
    assert parse_engines("bounce").warnings() == []


def test_the_default_engines_have_none() -> None:
    """They are not loaded to be asked, so it has to be so."""
    loaded = DEFAULT_CHOICE.engines().values()
    assert [getattr(engine, "warning", None) for engine in loaded] == [None, None]
    assert DEFAULT_CHOICE.warnings() == []


def test_an_engine_that_says_nothing_more_makes_records() -> None:
    assert route_of(get_engine("software")) is Route.RECORDS
    able = abilities(get_engine("software"))
    assert "TLS_AES_128_GCM_SHA256" in able["tx"].suites["TLS 1.3"]
    assert "TLS_AES_128_GCM_SHA256" in able["rx"].suites["TLS 1.3"]


def test_a_cipher_that_this_machine_lacks_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has = abilities(get_engine("software"))["tx"]
    assert {"ARIA_128_GCM_SHA256", "ARIA_256_GCM_SHA384"} <= set(has.suites["TLS 1.2"])
    monkeypatch.setattr(software, "_why_not", lambda cipher, key_length: f"no {cipher} here")
    lacks = abilities(get_engine("software"))["tx"]
    assert lacks.refused["TLS 1.2"]["ARIA_128_GCM_SHA256"] == "no ARIA-GCM here"


def listing(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["engines", *arguments])
    assert done.exit_code == 0
    return done.output


@pytest.mark.usefixtures("two_more")
def test_the_list_says_what_each_can_do() -> None:
    shown = listing()
    assert "absent    cannot be used here: there is no such card" in shown
    assert "null      mode NONE: no TLS at all" in shown
    assert "both ways not anything: this kernel has no KERN_TLS" in shown
    assert "receives: not with this engine" in shown
    assert "sends TLS 1.3: TLS_AES_128_GCM_SHA256," in shown
    assert "receives not AES_128_CBC_SHA" not in shown
    assert "both ways not TLS 1.2, TLS 1.1, TLS 1.0: the card knows TLS 1.3 only" in shown


@pytest.mark.usefixtures("two_more")
def test_the_list_as_json() -> None:
    said: dict[str, Any] = json.loads(listing("--json"))
    engines = {one["name"]: one for one in said["engines"]}
    assert said["schema"] == 1
    assert engines["absent"]["problem"] == "there is no such card"
    assert engines["software"]["problem"] is None
    assert engines["software"]["mode"] == "SW"
    assert engines["one-way"]["rx"] is None
    assert engines["null"]["rx"]["suites"] == {}
    assert "KERN_TLS" in engines["null"]["rx"]["refused"]["TLS 1.3"]["TLS_AES_128_GCM_SHA256"]
    assert "TLS_AES_128_GCM_SHA256" in engines["bounce"]["tx"]["suites"]["TLS 1.3"]
    assert "CLEAR TEXT" in engines["null"]["warning"]
