"""The ledger: append-only evidence of every step, which an auditor can verify without trusting the database."""

from __future__ import annotations

from meshflow.ledger.approvals import ApprovalRefusedError
from meshflow.ledger.format.entry import Intent, Written
from meshflow.ledger.replay import ReplayLedger

__all__ = ["ApprovalRefusedError", "Intent", "ReplayLedger", "Written"]
