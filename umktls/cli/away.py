"""What a mount waits for, in words: for `umktls stat` and `umktls umount`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from umktls.printable import printable

__all__ = ["amount", "server_words", "waiting_words", "work_words"]


def amount(count: int) -> str:
    """A number of bytes for people, in units of 1024: `1.5 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def server_words(server: dict[str, Any], now: float) -> str:
    """Since when the server is away, what was tried, when the next try is; "" while it answers."""
    since = server.get("away_since")
    if since is None:
        return ""
    clock = datetime.fromtimestamp(float(since)).strftime("%H:%M:%S")
    words = [f"away since {clock} ({max(0.0, now - float(since)):.0f} s)"]
    if server.get("reason"):
        words.append(str(server["reason"]))
    if server.get("tries"):
        words.append(f"{server['tries']} tries")
    words.append(next_try(server, now))
    return printable("; ".join(words))


def next_try(server: dict[str, Any], now: float) -> str:
    if server.get("next_try"):
        return f"the next try in {max(0.0, float(server['next_try']) - now):.1f} s"
    if server.get("connected"):
        return "it is waited for"
    return "a try is under way" if server.get("waiting") else "the next call tries again"


def waiting_words(server: dict[str, Any]) -> str:
    """The calls that wait for an answer, "" if none."""
    count = int(server.get("waiting") or 0)
    if not count:
        return ""
    return f"{count} calls wait for an answer, the oldest {server.get('waiting_seconds', 0):.1f} s"


def work_words(work: dict[str, Any]) -> str:
    """Data that is not stable on the server, and requests that wait; "" if there are none."""
    words = []
    if work.get("unwritten"):
        words.append(f"{amount(int(work['unwritten']))} of written data are not stable there")
    slow = [one for one in work.get("requests") or [] if float(one.get("seconds") or 0) >= 1]
    if slow:
        shown = ", ".join(
            f"{one.get('name')} of process {one.get('pid') or '?'}, {one.get('seconds'):.0f} s"
            for one in slow[:5]
        )
        words.append(f"{len(slow)} requests wait: {shown}")
    return printable("; ".join(words))
