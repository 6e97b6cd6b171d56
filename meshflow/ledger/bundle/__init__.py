"""Evidence bundles: runs, proofs, checkpoints and keys in one file that verifies without any database."""

from __future__ import annotations

from meshflow.ledger.bundle.verify import verify_bundle

__all__ = ["verify_bundle"]
