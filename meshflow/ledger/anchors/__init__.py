"""Places outside the database where checkpoints are kept, so that nobody can take back what was signed."""

from __future__ import annotations

from meshflow.ledger.anchors.contract import Anchor, AnchorError
from meshflow.ledger.anchors.file import FileAnchor
from meshflow.ledger.anchors.git import GitAnchor

__all__ = ["Anchor", "AnchorError", "FileAnchor", "GitAnchor"]
