"""The recorder decides nothing, so it has no codes of its own."""

from __future__ import annotations

CODES: dict[str, str] = {}
