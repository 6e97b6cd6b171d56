"""The denial codes of this plugin and what they mean."""

from __future__ import annotations

from typing import Final

from meshflow.policy.engine import CAUSES

PREFIX: Final = "compliance_profile."

CODES: Final[dict[str, str]] = {
    PREFIX + "denied": "A rule of an active profile refuses the step; the evidence names the control.",
    PREFIX + "escalated": "An active profile allows the step if a person agrees.",
    **{PREFIX + cause: meaning for cause, meaning in CAUSES.items()},
}
