"""When two spellings of a person's name are one name."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

# Default_Ignorable_Code_Point (DerivedCoreProperties.txt) as far as the category of a character does not say it, and
# the blank of Braille.
_BLANK = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
_NOT_SHOWN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})
_CLAIMS = ("email", "name", "preferred_username", "upn", "username")


def folded_name(name: str) -> str:
    """Return a person's name as two spellings of it share it: case, width, spaces, and characters that do not show.

    Letters of other scripts that look alike stay apart: who may approve should be named (``approvals.approvers``).
    """
    # Folding case takes some letters apart and joins others, and what was between two marks may have kept them apart.
    folded = _normal(_normal(_shown(name)).casefold())
    return " ".join(_shown(folded).split())


def names_of(subject: str, agent_id: str, claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the names, folded, under which a principal goes: its own two, and those that its token was kept with."""
    known = (subject, agent_id, *(claims.get(name) for name in _CLAIMS))
    return frozenset(folded_name(name) for name in known if isinstance(name, str))


def _shown(text: str) -> str:
    return "".join(one for one in text if one not in _BLANK and _is_shown(one))


def _is_shown(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in _NOT_SHOWN


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)
