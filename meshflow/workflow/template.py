"""Templates: data in which ``${{ }}`` holds expressions. What an expression gives is data, and is never read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import orjson

from meshflow.config.source import SettingPath
from meshflow.workflow.expressions import EvaluationError, Expression, ExpressionError, about
from meshflow.workflow.plain import MAX_SIZE, NotPlainError, Plain, plain

OPEN, CLOSE, ESCAPED = "${{", "}}", "$${{"
Compile: TypeAlias = Callable[[str], Expression]
Encode: TypeAlias = Callable[[str], str]


class TemplateError(NamedTuple):
    """What is wrong with an expression in a template: where in the data, and where in that text."""

    path: SettingPath
    message: str
    line: int
    column: int


class Template:
    """Data with expressions in it. ``names`` are the variables that they read.

    ``encode`` writes an expression's value where it stands within a text, as the text around it needs.
    """

    def __init__(
        self, data: Any, compile_one: Compile, errors: list[TemplateError], path: SettingPath = (),
        encode: Encode | None = None,
    ) -> None:  # fmt: skip
        found: set[str] = set()
        self._made = _Maker(compile_one, errors, found, encode).make(data, path)
        self.names = frozenset(found)
        self._fixed = None if isinstance(self._made, _Text | dict | list) else plain(self._made)

    def render(self, data: Mapping[str, Plain]) -> Plain:
        """Return the data with each expression's value in its place; EvaluationError where one has none."""
        if self._fixed is not None:
            return self._fixed
        made = self._made
        if isinstance(made, _Text) and made.whole is not None:
            return made.whole.value(data)  # plain, and measured, already
        try:
            return plain(_rendered(made, data))
        except NotPlainError as error:
            raise EvaluationError("expression_error", str(error)) from None


class _Text(NamedTuple):
    """A text with expressions: either one expression and nothing else, or pieces to be joined."""

    whole: Expression | None
    pieces: tuple[str | Expression, ...]
    encode: Encode | None = None


class _Maker:
    def __init__(
        self, compile_one: Compile, errors: list[TemplateError], found: set[str], encode: Encode | None
    ) -> None:
        self._compile = compile_one
        self._errors = errors
        self._found = found
        self._encode = encode

    def make(self, data: Any, path: SettingPath) -> Any:
        if isinstance(data, str):
            return self._text(data, path) if OPEN in data else data
        if isinstance(data, Mapping):
            return {key: self.make(item, (*path, key)) for key, item in data.items()}
        if isinstance(data, list | tuple):
            return [self.make(item, (*path, number)) for number, item in enumerate(data)]
        return data

    def _text(self, text: str, path: SettingPath) -> Any:
        pieces: list[str | Expression] = []
        try:
            for piece, at in split(text):
                pieces.append(piece if at < 0 else self._expression(piece, at, text, path))
        except ExpressionError as error:
            self._errors.append(TemplateError(path, str(error), error.line, error.column))
            return text
        if len(pieces) == 1:
            only = pieces[0]
            return _Text(only, ()) if isinstance(only, Expression) else only
        if all(isinstance(piece, str) for piece in pieces):
            return "".join(str(piece) for piece in pieces)
        return _Text(None, tuple(pieces), self._encode)

    def _expression(self, source: str, at: int, text: str, path: SettingPath) -> Expression:
        try:
            expression = self._compile(source)
        except ExpressionError as error:
            line, column = _place(text, at, error.line, error.column)
            raise ExpressionError(about(source, str(error)), line, column) from None
        self._found |= expression.names
        return expression


def split(text: str) -> list[tuple[str, int]]:
    """Return the parts of a text with the place where each expression begins, -1 for a part that is only text.

    The end of an expression is the first ``}}`` outside of its strings.
    """
    parts: list[tuple[str, int]] = []
    position, kept = 0, ""
    while True:
        start = text.find(OPEN, position)
        if start < 0:
            kept += text[position:]
            break
        if start and text[start - 1] == "$":
            kept += text[position : start - 1] + OPEN  # $${{ is ${{ itself
            position = start + len(OPEN)
            continue
        kept += text[position:start]
        end = _end(text, start + len(OPEN))
        if end < 0:
            raise ExpressionError(f"${{{{ is never closed; write }}}} behind the expression, or {ESCAPED} for the sign")
        if kept:
            parts.append((kept, -1))
        kept = ""
        parts.append((text[start + len(OPEN) : end], start + len(OPEN)))
        position = end + len(CLOSE)
    return [*parts, (kept, -1)] if kept else parts


def _end(text: str, position: int) -> int:
    quote = ""
    depth = 0
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character == "{":
            depth += 1
        elif character == "}":
            if depth:
                depth -= 1
            elif text.startswith(CLOSE, position):
                return position
        position += 1
    return -1


def _place(text: str, at: int, line: int, column: int) -> tuple[int, int]:
    """Return line and column within the text of a place within an expression that begins at ``at``."""
    if not line or not column:
        return 0, 0
    before = text.count("\n", 0, at)
    if line > 1:
        return before + line, column
    return before + 1, at - (text.rfind("\n", 0, at) + 1) + column


def _rendered(made: Any, data: Mapping[str, Plain]) -> Any:
    if isinstance(made, _Text):
        return made.whole.value(data).value if made.whole is not None else _text_of(made, data)
    if isinstance(made, dict):
        return {key: _rendered(item, data) for key, item in made.items()}
    if isinstance(made, list):
        return [_rendered(item, data) for item in made]
    return made


def _text_of(made: _Text, data: Mapping[str, Plain]) -> str:
    texts: list[str] = []
    room = MAX_SIZE
    for piece in made.pieces:
        text = piece if isinstance(piece, str) else _shown(piece, piece.value(data).value)
        if made.encode is not None and not isinstance(piece, str):
            text = made.encode(text)
        room -= len(text)
        if room < 0:
            raise EvaluationError("expression_error", f"a text grows past {MAX_SIZE:,} characters")
        texts.append(text)
    return "".join(texts)


def _shown(expression: Expression, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise EvaluationError(
            "expression_error",
            f"{expression.source.strip()!r} is null and stands in a text; say what to write then: x == null ? '' : x",
        )
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # Maps come out of the evaluator in any order, and what a person has approved must read the same when it is resumed.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
