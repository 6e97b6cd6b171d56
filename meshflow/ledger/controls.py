"""Control entries: who was stopped, by whom and why; read by every process before each step that a mesh governs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshflow.clock import Clock
from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import VERSION, Written, seal
from meshflow.ledger.format.steps import step_dict
from meshflow.ledger.store import LedgerStore

CONTROL_RUN = "meshflow.control"
"""The run that keeps control entries, of all tenants."""

CONTROL_CODES = ("kill", "pause", "quarantine", "release")
TARGETS = ("run", "agent", "tool", "tenant")


class ControlCalls:
    """The part of ``ReplayLedger`` that keeps and reads control entries."""

    _store: LedgerStore
    _clock: Clock
    _tenant: str | None
    path: Path | None

    @property
    def sees_all_controls(self) -> bool:
        """False where the database itself shows one tenant's rows alone, and so not what stops all tenants."""
        return self._tenant is None or self.path is not None

    async def record_control(self, code: str, target: Mapping[str, str], *, reason: str, authority: str) -> Written:
        """Append that a run, agent, tool or tenant is stopped or released; return once that is durable.

        ``target`` has keys among run, agent, tool and tenant, which must all match. ``reason`` and ``authority`` stay
        for good, so they must not name a person whom erasure may concern. A ledger opened for one tenant stops that
        tenant's steps alone.
        """
        if code not in CONTROL_CODES:
            raise LedgerError(f"{code!r} is none of {list(CONTROL_CODES)}")
        named = {name: value for name, value in target.items() if value}
        if not named or set(named) - set(TARGETS):
            raise LedgerError(f"name one or more of {list(TARGETS)} to {code}")
        if not reason.strip() or not authority.strip():
            raise LedgerError(f"to {code} needs a reason and an authority")
        if self._tenant is not None and named.setdefault("tenant", self._tenant) != self._tenant:
            raise LedgerError(f"this ledger is open for tenant {self._tenant!r} alone")
        fields = {
            "v": VERSION, "kind": "control", "run_id": CONTROL_RUN, "step_id": uuid.uuid4().hex, "attempt": 0,
            "tenant_id": named.get("tenant", ""), "started_us": self._clock.now_us(), "code": code, "target": named,
            "reason": reason, "authority": authority,
        }  # fmt: skip
        return await self._store.append(seal(fields, {}))

    async def controls(self, after: int = -1) -> list[dict[str, Any]]:
        """Return control entries of all tenants after a sequence number, the oldest first."""
        return [step_dict(entry) async for entry in self._store.entries(CONTROL_RUN, "control", None, after=after)]
