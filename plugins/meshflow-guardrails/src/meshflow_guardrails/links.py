"""Links and images in outputs that carry data to another host: how an injected agent speaks to its attacker."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from meshflow_guardrails.patterns import compile_re2, encodable

REMOVED = "[link removed]"
# Loaded without a click: markdown images, and the HTML and CSS that fetch.
_IMAGE = (
    r"!\[[^\]]*\]\(\s*<?([^)\s>]+)[^)]*\)"
    r"|(?i:<(?:img|image|iframe|script|link|embed|object|audio|video|source|input|body|svg)\b[^>]*?"
    r"\b(?:src|srcset|href|data|poster|background)\s*=\s*[\"']?\s*([^\"'\s>]+)[^>]*>)"
    r"|(?i:\burl\(\s*[\"']?((?:https?:)?//[^\"')\s]+)[\"']?\s*\))"
)
# Needs a click: markdown links and references, autolinks, HTML anchors, and bare addresses.
_LINK = (
    r"\[[^\]]*\]\(\s*<?((?i:https?:)?//[^)\s>]+)[^)]*\)"
    r"|(?m:^\s{0,3}\[[^\]]+\]:\s*<?((?i:https?:)?//\S+))"
    r"|(?i:<a\b[^>]*?\bhref\s*=\s*[\"']?\s*((?:https?:)?//[^\"'\s>]+)[^>]*>)"
    r"|((?i:https?:)//[^\s<>\"'`\])]+)"
)
_GATE = re.compile(r"//|\\\\|!\[")


class LinkScanner:
    """Finds links that carry data to hosts which are not allowed."""

    def __init__(self, allowed_hosts: tuple[str, ...], data_chars: int) -> None:
        self._exact = frozenset(host for host in allowed_hosts if not host.startswith("."))
        self._under = tuple(host for host in allowed_hosts if host.startswith("."))
        self._data_chars = data_chars
        self._either = compile_re2(f"(?:{_IMAGE})|(?:{_LINK})")
        self._images = 3

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Return start, end and kind (``image`` or ``link``) of each that carries data elsewhere."""
        if _GATE.search(text) is None:
            return []
        found: list[tuple[int, int, str]] = []
        for match in self._either.finditer(encodable(text)):
            group = next((i for i, value in enumerate(match.groups(), 1) if value), 0)
            if group and self._carries(match.group(group), image=group <= self._images):
                found.append((match.start(), match.end(), "image" if group <= self._images else "link"))
        return found

    def strip(self, text: str) -> str:
        """Return the text with those links taken out."""
        found = self.find(text)
        parts, at = [], 0
        for start, end, _ in found:
            parts += [text[at:start], REMOVED]
            at = end
        return "".join([*parts, text[at:]]) if found else text

    def _carries(self, address: str, *, image: bool) -> bool:
        address = address.replace("\\", "/")
        if not re.match(r"(?:https?:)?//", address, re.IGNORECASE):
            return False  # relative, mailto:, or data: which goes nowhere
        try:
            parts = urlsplit(address)
            host = (parts.hostname or "").rstrip(".")
        except ValueError:
            return True  # what cannot be read cannot be cleared
        if self._allowed(host):
            return False
        if image and (parts.query or parts.username):
            return True
        pieces = [unquote(parts.query), unquote(parts.fragment), parts.username or "", parts.password or ""]
        # A path part or a host label of words is ordinary; a long run without a break is data.
        pieces += [
            longest for part in (*parts.path.split("/"), *host.split(".")) if (longest := _unbroken(unquote(part)))
        ]
        return any(len(piece) >= self._data_chars for piece in pieces)

    def _allowed(self, host: str) -> bool:
        return host in self._exact or any(host == parent[1:] or host.endswith(parent) for parent in self._under)


def _unbroken(part: str) -> str:
    """Return the longest run of the part that mixes letters and digits as encoded data does; empty where none does."""
    runs = re.findall(r"[A-Za-z0-9+=]{24,}", part)
    mixed = [run for run in runs if any(c.isdigit() for c in run) and any(c.isalpha() for c in run)]
    return max(mixed, key=len, default="")
