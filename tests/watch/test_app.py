"""The server of the page, in memory: who is let in, what is answered."""

from __future__ import annotations

import json

import pytest
import trio

from tests.watch.asking import OURS, PORT, TOKEN, Answer, request
from umktls.watch import page
from umktls.watch.app import application
from umktls.watch.feed import Feed
from umktls.watch.recording import Recorder


async def ask(
    path: str,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    feed: Feed | None = None,
    recorder: Recorder | None = None,
    enough: int = 1 << 30,
) -> Answer:
    """One request; `enough`: hang up after so many bytes."""
    feed = feed or Feed()
    app = application(feed, recorder or Recorder(feed), TOKEN, PORT)
    gone = trio.Event()
    left = enough

    async def came(piece: bytes) -> None:
        nonlocal left
        left -= len(piece)
        if left <= 0:
            gone.set()

    sent = {"host": OURS, **(headers or {})}
    return await request(app, path, sent, method=method, came=came, gone=gone)


async def test_the_page() -> None:
    answer = await ask(f"/{TOKEN}/")
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert TOKEN not in answer.body.decode()
    nonce = policy.partition("nonce-")[2].partition("'")[0]
    assert answer.body.decode().count(f'nonce="{nonce}"') == 2
    assert nonce not in (await ask(f"/{TOKEN}/")).headers["content-security-policy"]


@pytest.mark.parametrize("name", [*(f"{module}.js" for module in page.MODULES), "style.css"])
async def test_its_files(name: str) -> None:
    answer = await ask(f"/{TOKEN}/static/{name}")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/")


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "../app.py"])
async def test_no_other_files(name: str) -> None:
    assert (await ask(f"/{TOKEN}/static/{name}")).status == 404


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/", {}, "token is missing"),
        ("/wrong/", {}, "token is missing"),
        (f"/{TOKEN}", {}, "token is missing"),
        (f"/{TOKEN}x/", {}, "token is missing"),
        (f"/{TOKEN}/", {"host": f"evil.example:{PORT}"}, "another name"),
        (f"/{TOKEN}/", {"host": "127.0.0.1:80"}, "another name"),
        (f"/{TOKEN}/", {"host": ""}, "another name"),
        (f"/{TOKEN}/", {"origin": "http://evil.example"}, "another page"),
        (f"/{TOKEN}/", {"origin": "null"}, "another page"),
        (f"/{TOKEN}/", {"origin": "http://127.0.0.1:80"}, "another page"),
        (f"/{TOKEN}/events", {"sec-fetch-site": "cross-site"}, "another site"),
        (f"/{TOKEN}/events", {"sec-fetch-site": "same-site"}, "another site"),
    ],
)
async def test_who_is_not_let_in(path: str, headers: dict[str, str], reason: str) -> None:
    answer = await ask(path, headers)
    assert answer.status == 403
    assert reason in json.loads(answer.body)["error"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
async def test_its_own_names(name: str) -> None:
    host = f"{name}:{PORT}"
    assert (await ask(f"/{TOKEN}/", {"host": host, "origin": f"http://{host}"})).status == 200


async def test_forms_of_other_pages_change_nothing() -> None:
    answer = await ask(f"/{TOKEN}/events", method="POST")
    assert (answer.status, json.loads(answer.body)["error"]) == (403, "this is for the page alone")


async def test_events_from_the_beginning() -> None:
    feed = Feed()
    for number in range(1, 5001):
        told = {"event": "probe", "number": number, "mono": float(number), "host": "client-1"}
        feed.take({**told, "connection": "c1", "text": "</script><b>", "side": "client"})
    feed.flush()
    answer = await ask(f"/{TOKEN}/events", feed=feed, enough=800_000)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.body.decode().split("\n\n") if line]
    messages = [json.loads(line.removeprefix("data: ")) for line in lines]
    events = [event for message in messages for event in message.get("events", [])]
    assert [event["number"] for event in events] == list(range(1, 5001))


@pytest.mark.parametrize("path", ["do", "step", "lesson/sequence", "answer"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000])
async def test_what_is_no_json_object(path: str, body: bytes) -> None:
    """It was an error of the server, and a traceback."""
    app, headers = application(feed := Feed(), Recorder(feed), TOKEN, PORT), {"host": OURS}
    headers |= {"x-umktls-watch": "1"}
    answer = await request(app, f"/{TOKEN}/{path}", headers, body, method="POST")
    assert answer.status == 400


async def test_a_name_that_is_no_utf_8_is_answered() -> None:
    app, headers = application(feed := Feed(), Recorder(feed), TOKEN, PORT), {"host": OURS}
    headers |= {"x-umktls-watch": "1"}
    asked = json.dumps({"host": "client-\udcff"}).encode()
    answer = await request(app, f"/{TOKEN}/do", headers, asked, method="POST")
    assert (answer.status, json.loads(answer.body)["errno"]) == (409, "ENOENT")


@pytest.mark.parametrize("number", ["-1", "x", "9" * 5000, "\N{SUPERSCRIPT TWO}"])
async def test_what_is_no_number_of_a_record(number: str) -> None:
    assert (await ask(f"/{TOKEN}/record/client-1/{number}")).status == 404


async def test_a_record_of_nobody() -> None:
    answer = await ask(f"/{TOKEN}/record/client-1/3")
    assert (answer.status, json.loads(answer.body)["errno"]) == (409, "ENOENT")


async def test_a_record_that_was_kept_is_there_when_its_host_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed, record = Feed(), {"wire": "AA==", "plain": ""}
    recorder = Recorder(feed)

    async def fetched(host: str, number: int) -> dict[str, str]:
        return record

    with monkeypatch.context() as there:
        there.setattr(feed, "record", fetched)
        await recorder.keep([{"host": "client-1", "record": 3}])
    answer = await ask(f"/{TOKEN}/record/client-1/3", feed=feed, recorder=recorder)
    assert json.loads(answer.body) == record


async def test_a_recording_is_one_page_without_links_outside() -> None:
    feed = Feed()
    told = {"event": "probe", "number": 1, "mono": 1.0, "host": "client-1", "side": "client"}
    feed.take({**told, "connection": "c1", "text": "</script><b>"})
    feed.flush()
    answer = await ask(f"/{TOKEN}/recording", feed=feed)
    text = answer.body.decode()
    assert "attachment" in answer.headers["content-disposition"]
    assert 'http-equiv="Content-Security-Policy"' in text
    assert "src=" not in text
    assert "</script><b>" not in text


async def test_stepping_is_told_to_the_page_and_asked_for_by_it() -> None:
    answer = await ask(f"/{TOKEN}/events", enough=200)
    told = [json.loads(line[6:]) for line in answer.body.decode().split("\n\n") if line]
    (step,) = [message for message in told if message["t"] == "step"]
    assert (step["on"], step["stops"]) == (False, [])
    refused = await ask(f"/{TOKEN}/step", method="POST")
    assert refused.status == 403
