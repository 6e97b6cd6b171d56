"""Reading text as a model might: look-alike letters, accents, odd forms and invisible characters folded away."""

from __future__ import annotations

import re
import unicodedata

from meshflow_guardrails.patterns import compile_re2

# Cyrillic and Greek letters that look like Latin ones, and letters whose stroke no decomposition takes away.
_LOOK_ALIKE = str.maketrans(
    "аАеЕоОрРсСуУхХіІјЈѕЅԁԛԝкКмМтТвВнНгґɡαΑοΟρΡεΕιΙνΝκΚτΤυΥβΒηΗχΧμΜзʟɪɴᴏᴇᴀłŁøØđĐßæÆœŒ",
    "aAeEoOpPcCyYxXiIjJsSdqwkKmMtTbBhHrrgaAoOpPeEiIvNkKtTuYbBnHxXuM3lINOEAlLoOdDsaAoO",
)
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+")

_HIDDEN_BMP = "\u00ad\u180e\u200b\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
# One class of 16-bit characters is a table to Python's re and quick to search; the rest is looked for apart.
_MAYBE_BMP = re.compile(f"[{_HIDDEN_BMP}\u200c-\u200f\ufe00-\ufe0f]")
_MAYBE_ASTRAL = re.compile("[\U000e0000-\U000e01ef]")
_HIDDEN = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e007a]{1,8}\U000e007f)"  # flags such as Scotland's are spelt in tags, and kept
    "|(?P<tags>[\U000e0000-\U000e007f]+)"
    "|(?P<selectors>[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}|(?<=[\x20-\x7e])[\U000e0100-\U000e01ef])"
    f"|(?P<invisible>[{_HIDDEN_BMP}]+|(?<=[\x21-\x7e])[\u200c-\u200f]+(?=[\x21-\x7e])|[\u200c-\u200f]{{2,}})"
)
_SPELT = re.compile(r"(?<![^\W_])(?:[^\W_][ .\-_*|/]{1,2}){7,}[^\W_](?![^\W_])")
# The same by RE2, a little wider: most texts have neither, and it says so ten times faster.
_MAYBE_SPELT = compile_re2(r"(?:[\pL\pN][ .\-_*|/]{1,2}){7}")
_MAYBE_LEET = compile_re2(r"[A-Za-z][013457@$!][A-Za-z]")
_SPELT_GAP = re.compile(r"[ .\-_*|/]+")
_LEET = str.maketrans("013457@$!", "oieastasi")


def may_hide(text: str) -> bool:
    """True where the text could hold hidden characters; quick on text that does not."""
    return not text.isascii() and (_MAYBE_BMP.search(text) is not None or _MAYBE_ASTRAL.search(text) is not None)


def without_hidden(text: str) -> tuple[str, dict[str, int], str]:
    """Return the text without hidden characters, how many there were by kind, and what tags and selectors spelt.

    Joiners stay between letters of scripts that need them and inside emoji; one mark alone beside them does no harm.
    """
    counts: dict[str, int] = {}
    spelt: list[str] = []

    def take(match: re.Match[str]) -> str:
        kind = match.lastgroup
        if kind is None:
            return match.group()
        counts[kind] = counts.get(kind, 0) + len(match.group())
        if kind == "tags":
            spelt.append("".join(chr(ord(char) - 0xE0000) for char in match.group() if ord(char) >= 0xE0020))
        elif kind == "selectors":
            spelt.append(_from_selectors(match.group()))
        return ""

    return _HIDDEN.sub(take, text), counts, " ".join(spelt)


def _from_selectors(run: str) -> str:
    """Return the bytes that variation selectors spell, one each, read as UTF-8."""
    points = (ord(char) for char in run)
    data = bytes(point - 0xFE00 if point <= 0xFE0F else point - 0xE0100 + 16 for point in points)
    return data.decode("utf-8", "ignore")


def folded(text: str) -> str:
    """Return the text with look-alikes, accents and forms folded to plain Latin letters."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text)
    return _MARKS.sub("", text).translate(_LOOK_ALIKE).encode("utf-8", "replace").decode("utf-8")


def unspelt(text: str) -> str:
    """Return the words that were spelt letter by letter, run together; empty where there are none."""
    if _MAYBE_SPELT.search(text) is None:
        return ""
    return "\n".join(_SPELT_GAP.sub("", match.group()) for match in _SPELT.finditer(text))


def unleeted(text: str) -> str:
    """Return the text with digits inside words read as letters; empty where there are none."""
    return text.translate(_LEET) if _MAYBE_LEET.search(text) is not None else ""
