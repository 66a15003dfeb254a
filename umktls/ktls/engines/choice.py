"""Which engine for which direction: what ``--engine`` and ``-o engine=`` say.

software                 this engine, both ways
ifnet                    it can only send: receiving is left to the default
tx=software,rx=bounce    one for each; a direction that is not named gets the default
"""

from __future__ import annotations

from collections.abc import Sequence

from umktls.dataclass import dataclass
from umktls.errors import CallerError
from umktls.ktls.engines import Engine, directions_of, get_engine
from umktls.ktls.session import Direction

DEFAULT_ENGINE = "software"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Names of engines, by direction."""

    tx: str = DEFAULT_ENGINE
    rx: str = DEFAULT_ENGINE

    def __str__(self) -> str:
        return self.tx if self.tx == self.rx else f"tx={self.tx},rx={self.rx}"

    def engines(self) -> dict[Direction, Engine]:
        """New engines. Raises CallerError for one that is not there or has another direction."""
        chosen: dict[Direction, Engine] = {"tx": get_engine(self.tx), "rx": get_engine(self.rx)}
        for direction, engine in chosen.items():
            if direction not in directions_of(engine):
                (other,) = directions_of(engine)
                raise CallerError(f"engine {engine.name} serves {other} only, not {direction}")
        return chosen

    def warnings(self) -> list[str]:
        """What whoever uses these engines has to know, every time. There is nothing of the default
        ones, and to learn that they need not be loaded."""
        if self == DEFAULT_CHOICE:
            return []
        texts = [getattr(engine, "warning", None) for engine in self.engines().values()]
        return [text for text in dict.fromkeys(texts) if text]


DEFAULT_CHOICE = EngineChoice()


def parse_engines(text: str) -> EngineChoice:
    """Read an option's value. Raises as `named_engines`."""
    choice = EngineChoice(**named_engines(text))
    choice.engines()
    return choice


def named_engines(text: str) -> dict[str, str]:
    """The directions for which the text names an engine.

    Raises:
        CallerError: it cannot be read, or names an engine that is not there.
    """
    if "=" not in text:
        served: Sequence[str] = directions_of(get_engine(text))
        return dict.fromkeys(served, text)
    names: dict[str, str] = {}
    for word in text.split(","):
        direction, _, name = word.partition("=")
        if direction not in ("tx", "rx") or direction in names:
            raise CallerError(f"engine {text!r}: say NAME, or tx=NAME,rx=NAME")
        names[direction] = get_engine(name).name
    return names
