"""Look over Rego text before a parser sees it: how deep its brackets go, and what the embedded engine cannot read."""

from __future__ import annotations

import re

from meshflow.errors import ConfigError

MAX_LITERAL_DEPTH = 12
"""Of ``[`` and ``{`` inside each other. The embedded parser's time doubles with each level: 14 take 0.3 s."""
MAX_DEPTH = 60
"""Of all brackets."""

_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|`[^`]*`|\$["`]|#[^\n]*|[\[\](){}]')


def check_source(text: str, path: str) -> None:
    """Raise ConfigError with ``path:line`` for text that the embedded parser would choke on. Linear."""
    depth = literals = 0
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol[0] == "$":
            _refuse(text, token.start(), path, 'string interpolation ($"...") is unknown to the embedded engine')
        elif symbol in "[{(":
            depth += 1
            literals += symbol != "("
            if literals > MAX_LITERAL_DEPTH or depth > MAX_DEPTH:
                _refuse(text, token.start(), path, "brackets are nested too deeply")
        elif symbol in "]})":
            depth -= 1
            literals -= symbol != ")"


def _refuse(text: str, position: int, path: str, message: str) -> None:
    raise ConfigError(message, where=f"{path}:{text.count(chr(10), 0, position) + 1}")
