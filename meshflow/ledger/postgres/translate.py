"""The ledger's SQL in PostgreSQL's terms: parameters numbered, and index hints left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

_TOKEN = re.compile(r"'(?:[^']|'')*'|\?|(?<!:):([a-z_]+)| INDEXED BY \w+")
_OF_ENTRY = "p.id BETWEEN e.id * 16 AND e.id * 16 + 15"
_FIELD = re.compile(r"p\.id = e\.id \* 16 \+ (\d+)")
_TESTED = re.compile(r"(\$\d+) IS NULL")
_READS = ("SELECT", "WITH", "VALUES", "SHOW", "EXPLAIN")


class Statement(NamedTuple):
    """A statement as PostgreSQL reads it, and the names of its parameters in order where they have names."""

    text: str
    names: tuple[str, ...]
    reads: bool

    def values(self, parameters: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any]:
        """Return the values in the order of the numbers."""
        if isinstance(parameters, Mapping):
            return [parameters[name] for name in self.names]
        return parameters


@lru_cache(maxsize=512)
def translate(sql: str) -> Statement:
    """Translate a statement; the same text is translated once."""
    names: dict[str, int] = {}
    count = 0

    def token(found: re.Match[str]) -> str:
        nonlocal count
        text, name = found[0], found[1]
        if text == "?":
            count += 1
            return f"${count}"
        if name is not None:
            return f"${names.setdefault(name, len(names) + 1)}"
        return text if text.startswith("'") else ""

    text = _TOKEN.sub(token, sql)
    # What is compared with NULL alone has no type; of ours all such values are texts.
    text = _TESTED.sub(r"\1::text IS NULL", text)
    # What a payload belongs to is a column of its own here; see ``tables``.
    text = text.replace(_OF_ENTRY, "p.entry_id = e.id")
    text = _FIELD.sub(r"p.entry_id = e.id AND p.id % 16 = \1", text)
    return Statement(text, tuple(names), text.lstrip().upper().startswith(_READS))
