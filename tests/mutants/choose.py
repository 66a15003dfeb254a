"""The places of a source text that are worth damaging, and the damages.

Four kinds, each with the mistakes that somebody might make:

- refusal: a condition in front of `raise` (or of the return of an error's number) never holds, or
  one of its parts is forgotten; a `raise` is missing.
- limit: a comparison's edge is off by one; a constant that bounds something is a thousand times as
  large.
- deadline: there is none.
- clean-up: what `finally` does, or a call that closes, removes or forgets, is missing.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Mutant", "mutants_of"]

ERRORS = re.compile(
    r"\b(NFS3ERR_|MNT3ERR_|RPCTLSERR_|AuthStat\.|AcceptStat\.|RejectStat\.|errno\.)"
)
DEADLINES = frozenset({"move_on_after", "fail_after", "move_on_at", "fail_at"})
CLEANERS = re.compile(
    r"a?close(_all)?|cancel|clear|discard|drop|end|forget|hang_up|kill|pop(item)?|release|remove|"
    r"rmtree|shutdown|terminate|unlink|wipe"
)
EDGES = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+$")
# Numbers of the kernels and protocols are no limits, though they are constants.
BOUNDS = re.compile(
    r"LIMIT|MAX|SECONDS|PATIENCE|TIMEOUT|BYTES|SIZE|JOBS|ENTRIES|KEPT|BUDGET|IDLE|PER_|TRIES|TURN"
)
MANY = 1000


@dataclass(frozen=True, slots=True)
class Mutant:
    """`text` in the place of the source's characters from `start` to `end`, in `line` (from 1).

    `lines` are those that a test must reach to notice: of a refusal that is missing, what it does;
    none where it is enough to import the file. `function` is the qualified name of what it is in,
    the constant's for a constant. `number`: which it is (from 1) of those that look the same."""

    path: str
    line: int
    lines: tuple[int, ...]
    start: int
    end: int
    text: str
    kind: str
    function: str
    before: str
    number: int = 1

    @property
    def name(self) -> str:
        """The same as long as the place looks the same, wherever it moves to."""
        before, after = (" ".join(text.split()) for text in (self.before, self.text))
        behind = f" ({self.number})" if self.number > 1 else ""
        return f"{self.path}:{self.function}: {before} -> {after}{behind}"

    def applied(self, source: str) -> str:
        """The source with the damage."""
        return source[: self.start] + self.text + source[self.end :]


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its lines; none that is the same as another, and each
    with a name of its own."""
    found = sorted(_Finder(path, source).all(), key=lambda one: (one.line, one.start))
    seen: Counter[str] = Counter()
    mutants = []
    for one in {(one.start, one.end, one.text): one for one in found}.values():
        seen[one.name] += 1
        mutants.append(replace(one, number=seen[one.name]))
    return mutants


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source
        self._tree = ast.parse(source)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.If) and len(node.body) == 1:
                node.body[0].guarded = True  # type: ignore[attr-defined]
        lines = source.splitlines(keepends=True)
        self._lines = [line.encode() for line in lines]
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))

    def all(self) -> Iterator[Mutant]:
        yield from self._constants()
        yield from self._in(self._tree, "")

    def _in(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        for child in ast.iter_child_nodes(node):
            inner = function
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{function}.{child.name}".lstrip(".")
            for kind, place, text in _damages(child):
                # Who is not refused does not notice that nobody is.
                lines = (
                    _lines_of(child.body) if text == "False" and isinstance(child, ast.If) else None
                )
                yield self._mutant(place, text, kind, inner, lines)
            yield from self._in(child, inner)

    def _constants(self) -> Iterator[Mutant]:
        for node in self._tree.body:
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if CONSTANT.match(name) and BOUNDS.search(name) and _is_number(value):
                    assert isinstance(value, ast.expr)
                    used = tuple(self._lines_that_use(name))
                    yield self._mutant(value, f"({{}}) * {MANY}", "limit", name, used)

    def _lines_that_use(self, name: str) -> Iterator[int]:
        for function in ast.walk(self._tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Name) and node.id == name:
                        yield node.lineno

    def _mutant(
        self,
        place: ast.AST,
        text: str,
        kind: str,
        function: str,
        lines: tuple[int, ...] | None = None,
    ) -> Mutant:
        start, end = self._span(place)
        before = self._source[start:end]
        line = getattr(place, "lineno", 1)
        if lines is None:
            lines = tuple(range(line, line + 1 + before.count("\n")))
        text = text.replace("{}", before)
        return Mutant(self._path, line, lines, start, end, text, kind, function, before)

    def _span(self, place: ast.AST) -> tuple[int, int]:
        if isinstance(place, _Block):
            return self._span(place.first)[0], self._span(place.last)[1]
        assert isinstance(place, ast.expr | ast.stmt)
        assert place.end_lineno is not None
        assert place.end_col_offset is not None
        return (
            self._at(place.lineno, place.col_offset),
            self._at(place.end_lineno, place.end_col_offset),
        )

    def _at(self, line: int, column: int) -> int:
        """Columns are counted in bytes by `ast`, positions here in characters."""
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode())


class _Block(ast.AST):
    """Several statements as one place."""

    def __init__(self, statements: list[ast.stmt]) -> None:
        self.first, self.last, self.lineno = statements[0], statements[-1], statements[0].lineno


def _damages(node: ast.AST) -> Iterator[tuple[str, ast.AST, str]]:
    """(kind, place, new text, in which {} is the old one)."""
    if isinstance(node, ast.If) and _refuses(node.body):
        yield "refusal", node.test, "False"
        yield from _forgotten(node.test)
    elif isinstance(node, ast.Raise) and _is_refusal(node):
        yield "refusal", node, "pass"
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and _bounded(node):
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        yield "limit", node, f"({left} {EDGES[type(node.ops[0])]} {right})"
    elif isinstance(node, ast.Call) and _name_of(node.func) in DEADLINES and node.args:
        yield "deadline", node.args[0], "float('inf')"
    elif isinstance(node, ast.Try) and node.finalbody:
        yield "clean-up", _Block(node.finalbody), "pass"
    elif isinstance(node, ast.Expr):
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and CLEANERS.fullmatch(_name_of(call.func)):
            yield "clean-up", node, "pass"


def _lines_of(body: list[ast.stmt]) -> tuple[int, ...]:
    return tuple(range(body[0].lineno, (body[-1].end_lineno or body[-1].lineno) + 1))


def _refuses(body: list[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.Raise):
        return True
    if not isinstance(last, ast.Return) or last.value is None:
        return False
    return bool(ERRORS.search(ast.unparse(last.value)))


def _is_refusal(node: ast.Raise) -> bool:
    """Whether it says no to somebody, and its condition does not stand for it."""
    kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return (
        kind is not None
        and not _guarded(node)
        and _name_of(kind) not in ("NotImplementedError", "AssertionError")
    )


def _guarded(node: ast.stmt) -> bool:
    """Whether it is all that a condition is there for: without the condition it is missing too."""
    return getattr(node, "guarded", False)


def _forgotten(test: ast.expr) -> Iterator[tuple[str, ast.AST, str]]:
    """Each part of a condition that somebody may forget."""
    if not isinstance(test, ast.BoolOp):
        return
    neutral = "True" if isinstance(test.op, ast.And) else "False"
    for part in test.values:
        yield "refusal", part, neutral


def _bounded(node: ast.Compare) -> bool:
    """Whether an edge off by one is a mistake worth a test: something is held against a bound."""
    if type(node.ops[0]) not in EDGES:
        return False
    sides = (node.left, node.comparators[0])
    return any(re.search(r"limit|max|bound|budget|[A-Z]{3,}", ast.unparse(side)) for side in sides)


def _is_number(value: ast.AST | None) -> bool:
    if isinstance(value, ast.BinOp):
        return _is_number(value.left) and _is_number(value.right)
    return isinstance(value, ast.Constant) and type(value.value) in (int, float)


def _name_of(called: ast.expr) -> str:
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""
