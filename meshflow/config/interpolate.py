"""Put environment variables into values: ``${NAME}``, ``${NAME:-default}``, and ``$${`` for a plain ``${``."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_TEXT = 1_048_576
_MARK = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class InterpolationError(ValueError):
    """A value names a variable that is not set, or is not written as a reference."""


def interpolate(text: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the text with its references replaced, and the names of the variables that gave something.

    A default stands in for a variable that is unset or empty, as in a shell. What a variable holds is not read again.
    """
    if "${" not in text:
        return text, ()
    pieces: list[str] = []
    names: dict[str, None] = {}
    position = length = 0
    for match in _MARK.finditer(text):
        piece = _replacement(match, environ, names)
        length += match.start() - position + len(piece)
        if length > MAX_TEXT:
            raise InterpolationError(f"grows past {MAX_TEXT} characters with the values of its variables")
        pieces += [text[position : match.start()], piece]
        position = match.end()
    return "".join([*pieces, text[position:]]), tuple(names)


def _replacement(match: re.Match[str], environ: Mapping[str, str], names: dict[str, None]) -> str:
    if match.group() == "$${":
        return "${"
    reference = _REFERENCE.fullmatch(match.group(1) or "")
    if reference is None:
        raise InterpolationError("'${' must open ${NAME} or ${NAME:-default}; write $${ for the characters themselves")
    name, default = reference.groups()
    value = environ.get(name, "")
    if value or (default is None and name in environ):
        names[name] = None
        return value
    if default is None:
        raise InterpolationError(
            f"environment variable {name} is not set; set it, or write ${{{name}:-default}} to give a default"
        )
    return str(default)
