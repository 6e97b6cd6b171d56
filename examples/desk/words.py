"""Small readings of plain text that the desk's rules share."""

from __future__ import annotations

import re
import unicodedata

ORDER_ID = re.compile(r"\bHS-?(\d{5})\b", re.IGNORECASE)
EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}\b")
AMOUNT = re.compile(
    r"[$€£]\s?(\d{1,3}(?:[., ]\d{3}){1,3}(?:[.,]\d{2})?|\d{1,7}(?:[.,]\d{2})?)(?!\d)"
    r"|(?<![\d.,-])(\d{1,3}(?:[., ]\d{3}){0,3}[.,]\d{2}|\d{1,7}(?= ?(?:EUR|USD|€)))(?![\d.,]?\d)"
)
COMMON = frozenset(
    ["and", "are", "but", "does", "each", "for", "from", "have", "not", "our", "that", "the", "this", "with", "you"]
)


def words(text: str) -> frozenset[str]:
    """Return the words of a text that could name a product: lower case, singular, at least three letters."""
    found = re.findall(r"[a-z0-9]{3,}", text.lower())
    return frozenset(word.removesuffix("s") for word in found if word not in COMMON)


def visible(text: str) -> str:
    """Drop format characters (zero width spaces and their kin), as any reader of the text does."""
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def order_ids(text: str) -> tuple[str, ...]:
    """Return the order numbers in a text, each once, in order."""
    return tuple(dict.fromkeys(f"HS-{digits}" for digits in ORDER_ID.findall(text)))


def emails(text: str) -> tuple[str, ...]:
    """Return the mail addresses in a text, each once, in order."""
    return tuple(dict.fromkeys(found.lower() for found in EMAIL.findall(text)))


def amounts_cents(text: str) -> tuple[int, ...]:
    """Return the sums of money in a text, in cents, whichever way their separators are written."""
    return tuple(_cents(first or second) for first, second in AMOUNT.findall(text))


def _cents(figure: str) -> int:
    decimals = re.search(r"[.,](\d{2})$", figure)
    whole = figure[: decimals.start()] if decimals else figure
    return int(re.sub(r"\D", "", whole)) * 100 + (int(decimals[1]) if decimals else 0)
