"""Places outside the database where checkpoints are kept, so that nobody can take back what was signed."""

from __future__ import annotations

from meshflow.ledger.anchors.contract import (
    Anchor,
    AnchorError,
    ContradictionError,
    NewerKeptError,
    Prove,
    Receipt,
    follows,
    spread,
)
from meshflow.ledger.anchors.file import FileAnchor
from meshflow.ledger.anchors.find import known_anchors, make_anchor
from meshflow.ledger.anchors.git import GitAnchor
from meshflow.ledger.anchors.s3 import S3Anchor
from meshflow.ledger.anchors.witness import WitnessAnchor

__all__ = [
    "Anchor",
    "AnchorError",
    "ContradictionError",
    "FileAnchor",
    "GitAnchor",
    "NewerKeptError",
    "Prove",
    "Receipt",
    "S3Anchor",
    "WitnessAnchor",
    "follows",
    "known_anchors",
    "make_anchor",
    "spread",
]
