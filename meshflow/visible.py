"""Text from records as people may be shown it: what a terminal or a browser obeys or hides is written out."""

from __future__ import annotations

import re
from html import escape

# C0 and C1 controls, soft hyphen, zero width and bidirectional marks, surrogates, tags; tab and line feed are left.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return text with each character that would be obeyed or hidden written as an escape."""
    return _UNSEEN.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text)


def html_text(value: object) -> str:
    """Return a value as text of an HTML element or attribute; nothing for None."""
    return "" if value is None else escape(visible(str(value)), quote=True)
