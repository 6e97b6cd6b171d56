"""Denial codes of this plugin."""

CODES: dict[str, str] = {}
"""None: a recorder does not decide. What the ledger refuses is raised, and the kernel gives the step its code."""
