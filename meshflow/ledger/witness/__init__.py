"""A witness for logs: it remembers the newest checkpoint of each, and cosigns only what extends that."""

from __future__ import annotations

from meshflow.ledger.witness.answer import Answer, Witness, trusted_logs
from meshflow.ledger.witness.keys import make_witness_keys, read_witness_keys
from meshflow.ledger.witness.server import WitnessServer
from meshflow.ledger.witness.state import WitnessState

__all__ = [
    "Answer",
    "Witness",
    "WitnessServer",
    "WitnessState",
    "make_witness_keys",
    "read_witness_keys",
    "trusted_logs",
]
