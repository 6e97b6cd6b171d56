"""What a verification says of a ledger as a whole, as conditions ask it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LedgerFacts:
    """The fields of the records ``ledger``: which layers were checked, and whether checkpoints are signed."""

    def __init__(self, verified: Mapping[str, Any]) -> None:
        checked = set(verified["checked"])
        signed = "checkpoint" in checked and verified.get("checkpoint_size") is not None
        self._values: dict[str, bool] = {
            "chain": "chain" in checked,
            "merkle_log": "merkle_log" in checked,
            "commitments": "commitments" in checked,
            "signed": signed,
            "fully_signed": signed and not verified.get("uncovered"),
            "held": verified.get("held_size") is not None,
            "anchored": "anchor" in checked,
        }

    def value(self, field: str) -> Any:
        """Return a field's value."""
        return self._values.get(field)
