"""Reading text the way a person would: odd digits and letters folded, invisible characters set aside, offsets kept."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Characters that show nothing. They are set aside before scanning, so that a zero-width space inside a card number
# does not hide it, and a finding's span covers them again.
_INVISIBLE_BMP = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0"
)
_INVISIBLE = _INVISIBLE_BMP + "\U000e0000-\U000e01ef"
_IS_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
_VISIBLE_RUN = re.compile(f"[^{_INVISIBLE}]+")
_LAST = 0x1FC00
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63\uff0d"


@lru_cache(maxsize=1)
def _fold_table() -> dict[int, str]:
    """Return one ASCII character for each character that is a digit, a letter or a sign in other clothes."""
    table: dict[int, str] = {0x130: "I", 0x131: "i"}
    for point in range(0x80, _LAST):
        char = chr(point)
        digit = unicodedata.decimal(char, None)
        if digit is not None:
            table[point] = str(digit)
            continue
        plain = unicodedata.normalize("NFKC", char)
        if len(plain) == 1 and plain.isascii():
            table[point] = plain
    table.update(dict.fromkeys(map(ord, _DASHES), "-"))
    return table


@lru_cache(maxsize=1)
def _odd() -> re.Pattern[str]:
    """Return what finds a character that is folded or set aside, among those of 16 bits.

    Python makes a table of such a class, and a slow list of one that reaches further; those are looked for apart.
    """
    folded = "".join(chr(point) for point in sorted(_fold_table()) if point < 0x10000)
    return re.compile(f"[{folded}\ud800-\udfff{_INVISIBLE_BMP}]")


_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


def canonical(text: str) -> tuple[str, list[int] | None]:
    """Return the text to scan, and for each of its characters the offset in ``text`` (None where they are the same).

    The lone surrogates that JSON lets through become ``?``: they have no UTF-8 form and would stop a scanner.
    """
    if text.isascii() or (_odd().search(text) is None and _ASTRAL.search(text) is None):
        return text, None
    text = text.translate(_fold_table()).encode("utf-8", "replace").decode("utf-8")
    if _IS_INVISIBLE.search(text) is None:
        return text, None
    offsets: list[int] = []
    parts: list[str] = []
    for run in _VISIBLE_RUN.finditer(text):
        parts.append(run.group())
        offsets.extend(range(run.start(), run.end()))
    return "".join(parts), offsets
