"""Secrets: keys, tokens and private keys, by redact-secret where it is installed and by linear patterns everywhere."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from meshflow.plugin import ConfigError
from meshflow_presidio.gates import compile_re2
from meshflow_presidio.settings import SECRET

# redact-secret is quadratic on some texts, so it sees short windows; they overlap by more than any token it knows,
# and what is longer (private keys, long JWTs) the patterns below find.
_WINDOW, _OVERLAP = 8_192, 2_048
_SCORES = {"high": 0.95, "medium": 0.6, "low": 0.3}

_TOKENS = (
    r"\b(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AIPA|ANPA|ANVA|AROA)[A-Z2-7]{12}[A-Z0-9]{4}\b",
    r"\bgh[opsur]_[A-Za-z0-9]{36,}",
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    r"\bey[JK][A-Za-z0-9_-]{8,}\.ey[JK][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\bhooks\.slack\.com/services/[A-Za-z0-9/_-]{20,}",
    r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"\bwhsec_[A-Za-z0-9+/=]{24,}",
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\bsk-(?:ant|proj|svcacct|or)-[A-Za-z0-9_-]{20,}",
    r"\bsk-[A-Za-z0-9]{40,}",
    r"\bhf_[A-Za-z0-9]{30,}",
    r"\bnpm_[A-Za-z0-9]{36}",
    r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"\bdop_v1_[a-f0-9]{64}",
    r"\bAGE-SECRET-KEY-1[A-Z0-9]{58}",
)
# The part in brackets is the secret; what surrounds it only says so.
_MARKED = (
    r"(?i:\b[a-z][a-z0-9+.-]{1,30}://)[^\s:/@<>]{0,128}:([^\s/@<>]{3,})@",
    r"(?i:\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token)\s{1,4})([A-Za-z0-9._~+/=-]{12,})",
    r"(?i:\b[A-Za-z0-9_-]{0,40}(?:secret|passwd|password|api_?key|access_?key|auth_?token)[\"']?\s{0,4}[:=]\s{0,4})"
    r"[\"']([^\"'\s<>{}]{8,})[\"']",
)
_PEM_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"(?:\s|\\[nr]|[A-Za-z-]{3,20}: [^\n]{0,80}\n)*(?:[A-Za-z0-9+/=]{16,}(?:\s|\\[nr])*)*")
_PEM_REACH = 16_384
# In a stream the head of a key is masked before its rest arrives: what follows the mask without a break belongs to it.
_MASKED = f"<{SECRET}>"
_RUN, _BREAK = r"[A-Za-z0-9+/=]", r"(?:\s|\\[nr])"
_END_LINE = r"-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
_PEM_END = re.compile(_END_LINE)
_CONTINUED = re.compile(
    rf"{_MASKED}{_BREAK}*((?:{_RUN}{{1,80}}{_BREAK}+)?"
    rf"(?:(?:{_RUN}{{40,}}{_BREAK}*)+(?:{_RUN}{{1,80}}{_BREAK}*)?(?:{_END_LINE})?|{_END_LINE}))"
)

Found = tuple[int, int, float]


class SecretScanError(Exception):
    """The detector refused the text; it cannot be called clean."""


class SecretScanner:
    """Finds secrets in a text, in time linear in its length."""

    def __init__(self, mode: str) -> None:
        self._native: Any = None
        self.covered = True
        if mode in ("auto", "required"):
            try:
                self._native = import_module("redact_secret")
            except ImportError as error:
                self.covered = False
                if mode == "required":
                    raise ConfigError(
                        "redact-secret is not installed; install it, or set secrets to auto or patterns",
                        path="plugins.presidio.secrets",
                    ) from error
        gate = "|".join(f"(?:{pattern})" for pattern in (*_TOKENS, *_MARKED))
        self._gate = compile_re2(gate, ignore_case=False)
        self._tokens = compile_re2("|".join(_TOKENS), ignore_case=False)
        self._marked = [compile_re2(pattern, ignore_case=False) for pattern in _MARKED]

    def scan(self, text: str) -> list[Found]:
        """Return start, end and score of each secret; spans may overlap."""
        found: list[Found] = []
        if "-----BEGIN" in text:
            found += self._private_keys(text)
        if _MASKED in text:
            found += [(m.start(1), m.end(1), 0.95) for m in _CONTINUED.finditer(text)]
        if self._gate.search(text) is not None:
            found += [(m.start(), m.end(), 0.95) for m in self._tokens.finditer(text)]
            for pattern in self._marked:
                found += [(m.start(1), m.end(1), 0.8) for m in pattern.finditer(text)]
        if self._native is not None:
            found += self._by_library(text)
        return found

    def _by_library(self, text: str) -> list[Found]:
        found: list[Found] = []
        errors = self._native.SecretScanError
        for offset in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
            window = text if len(text) <= _WINDOW else text[offset : offset + _WINDOW]
            try:
                hits = self._native.scan(window)
            except errors as error:
                raise SecretScanError(type(error).__name__) from None
            found += [(offset + hit.start, offset + hit.end, _SCORES.get(hit.confidence, 0.6)) for hit in hits]
            if len(text) <= _WINDOW:
                break
        return found

    @staticmethod
    def _private_keys(text: str) -> list[Found]:
        """Return whole private keys, and of a key cut short all that may belong to it."""
        begins = list(_PEM_BEGIN.finditer(text))
        limits = [begin.start() for begin in begins[1:]] + [len(text)]
        found: list[Found] = []
        for begin, limit in zip(begins, limits, strict=True):
            last = _PEM_END.search(text, begin.end(), min(limit, begin.end() + _PEM_REACH))
            # The body matches the empty text, so there is always one.
            body = last or _PEM_BODY.match(text, begin.end(), limit)
            found.append((begin.start(), body.end() if body is not None else begin.end(), 0.95))
        return found
