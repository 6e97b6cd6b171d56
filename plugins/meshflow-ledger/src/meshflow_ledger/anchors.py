"""The settings that say where checkpoints are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from meshflow.ledger.anchors import Anchor, make_anchor
from meshflow.plugin import Settings


class AnchorUse(Settings):
    """One anchor: ``{use: file, path: /mnt/elsewhere/checkpoints}``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(min_length=1, description="name of an anchor, such as file, git, s3 or witness")

    @property
    def given(self) -> dict[str, Any]:
        """Return the anchor's own settings."""
        return dict(self.model_extra or {})


def anchors_of(uses: Sequence[AnchorUse], base: Path) -> tuple[Anchor, ...]:
    """Return the anchors that settings name; ConfigError says which setting is wrong. Nothing is opened."""
    return tuple(
        make_anchor(use.use, use.given, base, path=f"ledger.anchors.{number}") for number, use in enumerate(uses)
    )
