"""Weighing the signals of an injection in a text, its decoded runs and its hidden parts; linear in the text."""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from meshflow_guardrails.fold import folded, unleeted, unspelt
from meshflow_guardrails.patterns import compile_re2, encodable
from meshflow_guardrails.signals import SIGNALS
from meshflow_guardrails.words import Signal

_NEGATED = re.compile(
    r"(?:\bnot|n't|\bnever|\bcannot|\bwithout|\bnor|\bnie|\bnicht|\bne|\bno)[\s,]{1,3}(?:to |ever |simply |just )?\Z",
    re.IGNORECASE,
)
_QUOTES = tuple("\"'`\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb")
_MAX_MATCHES = 16
_BASE64 = compile_re2(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = compile_re2(r"(?:\\x|0x|%)?[0-9A-Fa-f]{2}(?:(?:\\x|%|\s)?[0-9A-Fa-f]{2}){15,}")
_NOT_HEX = re.compile(r"\\x|0x|%|\s")
_ENCODED_BONUS = 0.4
_QUOTED = 0.5
_MOST_QUOTED = 0.6


@dataclass(slots=True)
class Weighed:
    """The sum of the weights, and the signals that gave it."""

    score: float = 0.0
    signals: dict[str, float] = field(default_factory=dict)
    quoted: float = 0.0

    def add(self, name: str, weight: float, *, quoted: bool = False) -> None:
        """Count a signal once, at the greatest weight seen. Quotations together weigh no more than ``_MOST_QUOTED``."""
        if quoted:
            weight = min(weight, _MOST_QUOTED - self.quoted)
            self.quoted += max(weight, 0.0)
        before = self.signals.get(name, 0.0)
        if weight > before:
            self.signals[name] = weight
            self.score += weight - before


class InjectionScanner:
    """The signals, compiled once."""

    def __init__(self, disabled: tuple[str, ...], *, decode: bool, decode_chars: int) -> None:
        unknown = sorted(set(disabled) - {signal.name for signal in SIGNALS})
        if unknown:
            raise ValueError(f"unknown signals {unknown}; choose from {[signal.name for signal in SIGNALS]}")
        self._signals = [(s, compile_re2(s.pattern, ignore_case=True)) for s in SIGNALS if s.name not in disabled]
        self._any = compile_re2("|".join(f"(?:{s.pattern})" for s, _ in self._signals), ignore_case=True)
        self._decode = decode
        self._decode_chars = decode_chars

    def weigh(self, text: str, hidden: str = "") -> Weighed:
        """Return the signals of a text; ``hidden`` is what its invisible characters spelt."""
        weighed = Weighed()
        plain = folded(text)
        self._weigh(plain, weighed, "")
        for prefix, variant in (("spelt:", unspelt(plain)), ("leet:", unleeted(plain))):
            if variant:
                self._weigh(variant, weighed, prefix)
        if hidden.strip():
            weighed.add("hidden_text", 0.7)
            self._weigh(folded(hidden), weighed, "hidden:")
        if self._decode:
            for decoded in self.decoded(text):
                self._weigh(folded(decoded), weighed, "encoded:")
        return weighed

    def _weigh(self, text: str, weighed: Weighed, prefix: str) -> None:
        if self._any.search(text) is None:
            return
        for signal, pattern in self._signals:
            if signal.name in weighed.signals and prefix:
                continue
            weight, quoted = _weight(signal, pattern.finditer(text), text)
            if weight:
                weighed.add(f"{prefix}{signal.name}", weight, quoted=quoted)
                if prefix:
                    weighed.add(f"{prefix}obfuscated", _ENCODED_BONUS)

    def decoded(self, text: str) -> Iterator[str]:
        """Yield what encoded runs say, decoded once; what decodes to no text is left out."""
        text = encodable(text)
        left = self._decode_chars
        if text.count("%") >= 8:
            yield unquote(text[:left])
        if text.count("&#") >= 4:
            yield html.unescape(text[:left])
        for pattern, decode in ((_BASE64, _from_base64), (_HEX, _from_hex)):
            for match in pattern.finditer(text):
                run = match.group()[:left]
                left -= len(run)
                if left <= 0:
                    return
                decoded = decode(run)
                if decoded:
                    yield decoded


def _weight(signal: Signal, matches: Iterator[re.Match[str]], text: str) -> tuple[float, bool]:
    """Return the weight at which a signal counts, none where it is negated, and whether it is quoted."""
    quoted = False
    for seen, match in enumerate(matches):
        before = text[max(0, match.start() - 24) : match.start()]
        if not signal.quotable:
            return signal.weight, False
        if seen >= _MAX_MATCHES:
            break
        if _NEGATED.search(before) is not None:
            continue
        if before.rstrip()[-1:] not in _QUOTES:
            return signal.weight, False
        quoted = True
    return (signal.weight * _QUOTED, True) if quoted else (0.0, False)


def _from_base64(run: str) -> str:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        return _as_text(base64.b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError):
        return ""


def _from_hex(run: str) -> str:
    digits = _NOT_HEX.sub("", run)
    try:
        return _as_text(bytes.fromhex(digits[: len(digits) // 2 * 2]))
    except ValueError:
        return ""


def _as_text(data: bytes) -> str:
    text = data.decode("utf-8", "ignore")
    readable = sum(char.isprintable() or char.isspace() for char in text)
    return text if text and readable >= 0.9 * len(text) and len(text) >= 0.7 * len(data) else ""
