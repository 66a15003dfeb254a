from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from umktls_fs.source import Source

from umktls.errors import CallerError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("server:/", Source("server", None, "/")),
        ("server:/srv/data", Source("server", None, "/srv/data")),
        ("server:2049:/srv/data", Source("server", 2049, "/srv/data")),
        ("10.0.0.1:/a:b", Source("10.0.0.1", None, "/a:b")),
        ("[::1]:/", Source("::1", None, "/")),
        ("[fe80::1%eth0]:20490:/x", Source("fe80::1%eth0", 20490, "/x")),
        ("server:/with space\nand line", Source("server", None, "/with space\nand line")),
    ],
)
def test_known_sources(text: str, source: Source) -> None:
    assert Source.parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "server",
        "/export",
        "server:export",
        ":/x",
        "::1:/x",
        "[::1]/x",
        "server:x:/y",
        "server:٣:/y",
    ],
)
def test_other_texts_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(CallerError, match=r"HOST\[:PORT\]:/EXPORT"):
        Source.parse(text)


@pytest.mark.parametrize("text", ["nfs://server/export", "NFS://server:2049/export"])
def test_a_url_is_refused_for_being_one(text: str) -> None:
    """It would be a host of the name nfs."""
    with pytest.raises(CallerError, match=r"is a URL.*HOST\[:PORT\]:/EXPORT"):
        Source.parse(text)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_ports_have_16_bits(port: str) -> None:
    with pytest.raises(CallerError, match="not a TCP port"):
        Source.parse(f"server:{port}:/x")


@given(
    st.one_of(st.just("server"), st.just("::1"), st.just("192.0.2.1")),
    st.one_of(st.none(), st.integers(1, 65535)),
    st.text().map(lambda text: "/" + text),
)
def test_what_is_printed_is_read_again(host: str, port: int | None, export: str) -> None:
    source = Source(host, port, export)
    assert Source.parse(str(source)) == source
