"""docs/compatibility.md, printed from the tables of the code and from the rows' results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.conformance import by_calls
from tests.conformance.collection import ROWS
from tests.conformance.rows import EVERYBODY, Row
from tests.ktls.socket import test_gnutls, test_openssl, test_openssl_older
from umktls.abi.freebsd import CRYPTO_AES_CBC
from umktls.abi.messages import MessageAbi
from umktls.abi.personality import FREEBSD_ALGORITHMS, PERSONALITIES
from umktls.ktls.options.option import Option
from umktls.ktls.options.table import options_of
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_3, Suite

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
FREEBSD_KEYS, LINUX_KEYS = "FreeBSD: setting keys", "Linux: crypto_info"
LINUX_OPTIONS = "Linux: options of level SOL_TLS"
SOCKET_LEVEL = "Options of level SOL_SOCKET"
# The area of rows that is about an option.
TESTED_BELOW = {
    "TCP_TXTLS_ENABLE": FREEBSD_KEYS,
    "TCP_RXTLS_ENABLE": FREEBSD_KEYS,
    "TCP_TXTLS_MODE": "FreeBSD: modes",
    "TCP_RXTLS_MODE": "FreeBSD: modes",
    "TCP_ULP": "Linux: TCP_ULP",
    "TLS_TX": LINUX_KEYS,
    "TLS_RX": LINUX_KEYS,
    "TLS_TX_ZEROCOPY_RO": LINUX_OPTIONS,
    "TLS_RX_EXPECT_NO_PAD": LINUX_OPTIONS,
    "TLS_TX_MAX_PAYLOAD_LEN": LINUX_OPTIONS,
    "SO_SNDBUF": SOCKET_LEVEL,
    "SO_RCVLOWAT": SOCKET_LEVEL,
    "UMKTLS_LEFTOVER": "umktls: UMKTLS_LEFTOVER (on every personality)",
}
OWN = {"freebsd": "FreeBSD", "linux": "Linux", "umktls": "umktls"}

INTRODUCTION = """\
# Compatibility

What the model of kernel TLS does of what FreeBSD and Linux do, socket option by socket option and
statement by statement. This page is printed by `python -m tests.conformance` from the tables that
the code works with, and from the conformance suite in `tests/conformance`; a test compares it with
them.

A *personality* says whose behaviour is emulated. `freebsd13` is 13.2 and later, `freebsd13.0` is
13.0 and 13.1, `linux` is 6.19, `linux6.12` is Linux without rekeying, `umktls` is our own and the
default.

`make kernel` asks what is said here of Linux 6.12 of a real one, in an emulated machine, row by row
(`tests/realkernel`); what the kernel said has the last word.
"""

ABOUT_VALUES = """\
Everything that differs between personalities is a value in `umktls/abi/personality.py`, where each
is explained.
"""

ABOUT_PEERS = """\
*tested against*: who opens what is sealed here, and seals what is opened here, in each of the
versions (TLS 1.0 is sealed here and never opened). Nobody but Linux's kernel has SM4 in TLS 1.2,
and for AES-128-CBC with SHA-384 no suite was ever named, so that no library can be asked for it:
their ciphers are tested by known answers, their records against nobody (those with CBC against what
`tests/conformance/reference.py` has written out from the RFCs). ARIA is libcrypto's, of OpenSSL 3;
a machine without that refuses it as Linux without the cipher does.
"""

ABOUT_ROWS = """\
Each line is a statement about kernels, and a test. **yes**: the personality was found to behave so
when this page was printed. **-**: the statement is not about this kernel. **no**: not followed, for
the reason below the table. Where one could expect something else, it is said there what the
statement is from.

The last column is for unmodified programs (`docs/unmodified.md`): the rows about Linux and about
`umktls` were asked once more, by a program's own system calls under `umktls run`, with sendmsg and
recvmsg (`tests/run/test_rows.py`). **model**: only a model can be asked, for the reason below.
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table."""
    columns = list(head)
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


GENERAL = (
    "rpctls_versions",
    "handshake_family",
    "client_upcall_seconds",
    "server_upcall_seconds",
    "probe_needs_daemon",
    "errno_map",
)


def values() -> Iterator[str]:
    """The personalities, a value a line."""
    names = list(PERSONALITIES)
    lines: dict[str, list[str]] = {}
    for personality in PERSONALITIES.values():
        for group in ("keys", "sending", "receiving"):
            rules = getattr(personality, group)
            for field in dataclasses.fields(rules):
                cell = shown(getattr(rules, field.name))
                lines.setdefault(f"{group}.{field.name}", []).append(cell)
        lines.setdefault("tls_stat", []).append(f"{len(personality.tls_stat)} lines")
        for name in GENERAL:
            lines.setdefault(name, []).append(shown(getattr(personality, name)))
    yield from table(["value", *names], ([f"`{k}`", *cells] for k, cells in sorted(lines.items())))


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 2**63:
        return "2^64" if value == 2**64 else "2^64 - 1"
    if isinstance(value, frozenset | tuple):
        return ", ".join(str(item) for item in sorted(value)) or "none"
    return "none" if value is None else str(value)


def options() -> Iterator[str]:
    found = options_of(("freebsd", "linux")).values()
    yield from table(
        ["option", "level", "number", "kernel", "set", "get", "handled", "tested below"],
        (option_cells(option) for option in found),
    )


def option_cells(option: Option) -> list[str]:
    return [
        f"`{option.name}`",
        f"`{option.level_name}` ({option.level})",
        str(option.number),
        OWN[option.kernel],
        "yes" if option.set else "no",
        "yes" if option.get else "no",
        option.handled,
        TESTED_BELOW[option.name],
    ]


def messages() -> Iterator[str]:
    names = (
        "peek",
        "waitall",
        "dontwait",
        "nosignal",
        "eor",
        "ctrunc",
        "more",
        "errqueue",
        "tls_app_data",
    )
    abis: dict[str, MessageAbi] = {name: p.messages for name, p in PERSONALITIES.items()}
    shapes: dict[str, Callable[[MessageAbi], str]] = {
        "sets a record's type (level, type)": lambda abi: str(abi.set_record_type),
        "tells a record's type (level, type)": lambda abi: str(abi.get_record_type),
        "struct cmsghdr": lambda abi: f"`{abi.layout.header.format}`",
    }
    rows = [[what, *(show(abi) for abi in abis.values())] for what, show in shapes.items()]
    for name in names:
        numbers = [getattr(abi, name) for abi in abis.values()]
        shown_numbers = [f"{number:#x}" if number else "none" for number in numbers]
        rows.append([f"MSG_{name.upper().replace('TLS_APP_DATA', 'TLSAPPDATA')}", *shown_numbers])
    yield from table(["", *abis], rows)


def suites() -> Iterator[str]:
    yield from table(
        ["suite", "TLS", "FreeBSD", "Linux", "records under one key", "tested against"],
        (suite_cells(suite) for suite in ALL_SUITES.values()),
    )
    yield ABOUT_PEERS


def peers_of(suite: Suite) -> str:
    """Who opens what is sealed here and the other way round, in all versions, in tests/ktls."""
    newer = {(name, TLS_1_3) for name in test_openssl.SUITES}
    tested = {
        "OpenSSL": newer | {(name, version) for _, name, version in test_openssl_older.SUITES},
        "GnuTLS": {(name, version) for name, version, *_ in test_gnutls.SUITES},
    }
    wanted = {(suite.name, version) for version in suite.versions}
    return ", ".join(peer for peer, pairs in tested.items() if wanted <= pairs) or "nobody"


def suite_cells(suite: Suite) -> list[str]:
    versions = ", ".join(f"1.{(version & 0xFF) - 1}" for version in suite.versions)
    freebsd = "yes" if suite.algorithm in FREEBSD_ALGORITHMS else "no"
    if suite.algorithm == CRYPTO_AES_CBC:
        freebsd = "if `cbc_enable`"
    limit = "2^64" if suite.record_limit == 2**64 else f"{suite.record_limit:,}"
    linux = str(suite.cipher_type) if suite.cipher_type else "no"
    return [f"`{suite.name}`", versions, freebsd, linux, limit, peers_of(suite)]


def results() -> Iterator[str]:
    """The rows, area by area, with what running them has shown."""
    for area in dict.fromkeys(row.area for row in ROWS):
        rows = [row for row in ROWS if row.area == area]
        yield f"### {area}"
        yield ""
        modules = sorted({row.module.replace(".", "/") + ".py" for row in rows})
        yield "In " + ", ".join(f"`{module}`" for module in modules) + "."
        yield ""
        yield from table(
            ["statement", *EVERYBODY, "`umktls run`"],
            (
                [row.statement, *(result(row, name) for name in EVERYBODY), by_calls.told(row)[0]]
                for row in rows
            ),
        )
        remarks = [remark for row in rows for remark in remarks_on(row)]
        yield from remarks
        if remarks:
            yield ""


def remarks_on(row: Row) -> Iterator[str]:
    """What is to be said below its table."""
    if row.reason or row.note:
        yield f"- *{row.statement}*: {row.reason or row.note}"
    why = by_calls.told(row)[1]
    if why:
        yield f"- *{row.statement}*, `umktls run`: {why}"


def result(row: Row, personality: str) -> str:
    """Run the row for one personality. A row that fails says so, and fails the tests elsewhere."""
    if personality not in row.personalities:
        return "-"
    if row.check is None:
        return "no"
    try:
        for variant in row.variants or (None,):
            row.run(personality, variant)
    except Exception:
        return "FAILS"
    return "yes"


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION, "## Personalities", "", ABOUT_VALUES]
    lines += [*values(), "## Socket options", "", *options()]
    lines += ["## Flags and control messages", "", *messages()]
    lines += ["## Suites", "", *suites(), "## Statements", "", ABOUT_ROWS, *results()]
    return "\n".join(lines).rstrip() + "\n"
