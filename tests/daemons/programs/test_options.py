"""The command lines: every option of the man pages, short and long, and what goes with what."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import pytest
from umktls_daemons.programs import rpctlscd, rpctlssd
from umktls_daemons.programs.options import ClientOptions, Options, ServerOptions, UsageProblem
from umktls_daemons.programs.running import Start
from umktls_daemons.tls.hostnames import Wildcards

from umktls.nfsd.exports.file import FLAGS, VALUES

HERE = Path.cwd()
RUNDIR = ("--rundir", "/run/host")
CA = Path("/ca.pem")


def parsed(command: click.Command, *arguments: str) -> dict[str, Any]:
    return command.make_context("daemon", [*RUNDIR, *arguments]).params


# Option, its long form, its value, the field, what the field becomes.
COMMON = [
    ("-C", "--ciphers", "TLS_AES_128_GCM_SHA256", "ciphers", "TLS_AES_128_GCM_SHA256"),
    ("-D", "--certdir", "certs", "certdir", HERE / "certs"),
    ("-l", "--verifylocs", "ca.pem", "verifylocs", HERE / "ca.pem"),
    ("-m", "--mutualverf", None, "mutualverf", True),
    ("-p", "--verifydir", "/cas", "verifydir", Path("/cas")),
    ("-r", "--crl", "crl.pem", "crl", HERE / "crl.pem"),
]
CLIENT = [*COMMON, ("-2", "--usetls1_2", None, "tls1_2", True)]
SERVER = [
    *COMMON,
    ("-2", "--allowtls1_2", None, "tls1_2", True),
    ("-h", "--checkhost", None, "checkhost", True),
    ("-n", "--domain", "example.org", "domain", "example.org"),
    ("-N", "--numdaemons", "16", "numdaemons", 16),
    ("-N", "--maxthreads", "16", "numdaemons", 16),
    ("-u", "--certuser", None, "certuser", True),
    ("-W", "--multiwild", None, "multiwild", True),
    ("-w", "--singlewild", None, "singlewild", True),
]
SIDES: list[tuple[click.Command, type[Options], Any]] = [
    *((rpctlscd.command, ClientOptions, row) for row in CLIENT),
    *((rpctlssd.command, ServerOptions, row) for row in SERVER),
]


@pytest.mark.parametrize(("command", "kind", "row"), SIDES)
def test_short_and_long_forms(command: click.Command, kind: type[Options], row: Any) -> None:
    short, long, value, name, expected = row
    plain = asdict(kind.of(parsed(command)))
    for form in (short, long):
        values = kind.of(parsed(command, form, *([value] if value else [])))
        assert asdict(values) | {"passphrase": None} == plain | {name: expected, "passphrase": None}
    assert plain[name] != expected


@pytest.mark.parametrize("command", [rpctlscd.command, rpctlssd.command])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), Start()),
        (("-v",), Start(verbose=True)),
        (("--verbose",), Start(verbose=True)),
        (("-d",), Start(debuglevel=True)),
        (("--debuglevel",), Start(debuglevel=True)),
        (
            ("--background", "--pidfile", "/p", "--log", "stderr"),
            Start(background=True, pidfile=Path("/p"), log="stderr"),
        ),
    ],
)
def test_how_it_starts(command: click.Command, arguments: tuple[str, ...], expected: Start) -> None:
    assert Start.of(parsed(command, *arguments)) == expected


@pytest.mark.parametrize(
    ("start", "background", "syslog", "level"),
    [
        (Start(), False, False, 30),
        (Start(verbose=True), False, False, 20),
        (Start(background=True), True, True, 30),
        (Start(background=True, log="stderr"), True, False, 30),
        (Start(log="syslog"), False, True, 30),
        (Start(background=True, log="syslog", debuglevel=True), False, False, 10),
    ],
)
def test_where_it_runs_and_logs(start: Start, background: bool, syslog: bool, level: int) -> None:
    assert (start.in_background, start.to_syslog, start.level) == (background, syslog, level)


@pytest.mark.parametrize("number", ["0", "17", "many"])
def test_numbers_of_daemons_that_freebsd_does_not_take(number: str) -> None:
    with pytest.raises(click.BadParameter):
        parsed(rpctlssd.command, "-N", number)


MUTUAL = ServerOptions(Path("/run"), Path("/certs"), verifylocs=CA, mutualverf=True)
GOOD = [
    ClientOptions(Path("/run"), Path("/certs")),
    ClientOptions(Path("/run"), Path("/certs"), mutualverf=True),
    ClientOptions(Path("/run"), Path("/certs"), verifydir=CA, crl=CA),
    ServerOptions(Path("/run"), Path("/certs")),
    MUTUAL,
    replace(MUTUAL, verifylocs=None, verifydir=CA),
    replace(MUTUAL, checkhost=True, multiwild=True),
    replace(MUTUAL, checkhost=True, singlewild=True),
    replace(MUTUAL, certuser=True, domain="example.org", crl=CA),
]


@pytest.mark.parametrize("options", GOOD)
def test_options_that_go_together(options: Options) -> None:
    options.check()


BAD = [
    (replace(GOOD[0], crl=CA), "-r needs -l or -p"),
    (replace(GOOD[3], crl=CA), "-r needs -l or -p"),
    (replace(GOOD[3], mutualverf=True), "-m needs -l or -p"),
    (ServerOptions(Path("/run"), Path("/certs"), checkhost=True), "-h needs -m"),
    (ServerOptions(Path("/run"), Path("/certs"), certuser=True), "-u needs -m"),
    (replace(MUTUAL, domain="example.org"), "-n needs -u"),
    (replace(MUTUAL, multiwild=True), "-W needs -h"),
    (replace(MUTUAL, singlewild=True), "-w needs -h"),
    (
        replace(MUTUAL, checkhost=True, multiwild=True, singlewild=True),
        "-W and -w exclude each other",
    ),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_options_that_do_not(options: Options, words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        options.check()


def test_wildcards() -> None:
    assert MUTUAL.wildcards is Wildcards.NONE
    assert replace(MUTUAL, singlewild=True).wildcards is Wildcards.SINGLE
    assert replace(MUTUAL, multiwild=True).wildcards is Wildcards.MULTI


@pytest.mark.parametrize("command", [rpctlscd.command, rpctlssd.command])
def test_the_page_has_every_option(command: click.Command) -> None:
    page = (Path(__file__).parents[3] / "docs" / "daemons.md").read_text()
    for option in command.params:
        for name in option.opts:
            assert f"`{name}" in page, name


def test_the_page_has_every_option_of_the_exports_file() -> None:
    page = (Path(__file__).parents[3] / "docs" / "daemons.md").read_text()
    others = {"o", "root", "r"}  # other names of -ro and -maproot
    for name in {*FLAGS, *VALUES} - others:
        assert f"`-{name}" in page, name


def test_certificates_are_called_as_freebsd_calls_them() -> None:
    assert MUTUAL.identity().certificate == Path("/certs/cert.pem")
    assert MUTUAL.identity().key == Path("/certs/certkey.pem")
    assert MUTUAL.identity("other").certificate == Path("/certs/other.pem")
    assert MUTUAL.identity("other").key == Path("/certs/otherkey.pem")
