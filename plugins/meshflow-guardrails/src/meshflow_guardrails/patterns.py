"""RE2, and nothing else, for patterns over text from outside: its time is linear whatever the pattern and the text."""

from __future__ import annotations

from typing import Any

import re2  # type: ignore[import-untyped]


def compile_re2(pattern: str, *, ignore_case: bool = False) -> Any:
    """Compile a pattern with RE2; raise ValueError with RE2's reason where it cannot be."""
    options = re2.Options()
    options.case_sensitive = not ignore_case
    options.log_errors = False
    options.max_mem = 64 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"RE2 refuses the pattern: {error}") from None


def of_keywords(words: tuple[str, ...]) -> Any:
    """Return a pattern for any of the words in any case, whatever the white space between; group 1 is the word.

    That no letter stands after it is in the pattern; that none stands before is for the caller to see. Not ``\\b``:
    to RE2 a letter that is not ASCII is none.
    """
    parts = (r"\s+".join(re2.escape(part) for part in word.split()) for word in words)
    return compile_re2("(" + "|".join(parts) + r")(?:$|[^\pL\pN_])", ignore_case=True)


def encodable(text: str) -> str:
    """Return the text with the lone surrogates, which RE2 cannot be given, as question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
