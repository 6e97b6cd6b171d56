"""The switch: a plugin that refuses the steps of what was stopped, whichever process stopped it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from meshflow.errors import ContractError
from meshflow.ledger.replay import ReplayLedger
from meshflow.plugin import ComplianceChecker, Decision, Plugin, Settings, StepContext, StepRecord, hookimpl
from meshflow.step import ACTING_AGENT

Target = tuple[tuple[str, str], ...]
_CODE = {"kill": "killed", "pause": "paused", "quarantine": "quarantined"}
STOPPED = frozenset(_CODE.values())
"""The causes of the switch's own denials."""


class Stop(NamedTuple):
    """Why something is stopped: the control entry in force."""

    code: str
    reason: str
    authority: str
    target: Target


class SwitchSettings(Settings):
    """The switch has no settings."""


class SwitchPlugin(Plugin[SwitchSettings]):
    """Reads the control entries of the ledger before each step, so that a stop holds for the next step everywhere.

    The read is one look-up by index, and only what is new is read. A ledger that cannot be read denies, as every
    stage that raises does.
    """

    settings_type = SwitchSettings

    def __init__(self, on_record: Callable[[StepContext, StepRecord], None]) -> None:
        super().__init__(SwitchSettings())
        self.ledger: ReplayLedger | None = None
        """Where stops are kept; a switch without a ledger denies every step."""
        self._on_record = on_record
        self._stops: dict[Target, Stop] = {}
        self._seen = -1

    @hookimpl
    async def apply_compliance_profile(self, context: StepContext) -> Decision | None:
        """Deny the step when what it belongs to was stopped; no opinion otherwise."""
        await self.refresh()
        stop = self.stop_of(_belongs(context)) if self._stops else None
        if stop is None:
            return None
        what = ", ".join(f"{name} {value}" for name, value in stop.target)
        return Decision.deny(f"compliance_profile.{_CODE[stop.code]}", f"{what}: {stop.reason} (by {stop.authority})")

    @hookimpl
    async def settle_step(self, context: StepContext, record: StepRecord) -> None:
        """Tell the mesh of a step that was recorded."""
        if not context.look_only:
            self._on_record(context, record)

    async def refresh(self) -> None:
        """Take up the control entries that came since the last look."""
        if self.ledger is None:
            raise ContractError("the switch has no ledger to read stops from")
        for entry in await self.ledger.controls(self._seen):
            self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        if entry["seq"] <= self._seen:  # another step's look came first
            return
        self._seen = entry["seq"]
        target = tuple(sorted(entry["target"].items()))
        if entry["code"] == "release":
            self._stops.pop(target, None)
        else:
            self._stops[target] = Stop(entry["code"], entry["reason"], entry["authority"], target)

    def stop_of(self, belongs: Mapping[str, Collection[str | None]]) -> Stop | None:
        """Return what stops a step, a kill before a pause; None where nothing does."""
        found = [stop for stop in self._stops.values() if all(value in belongs[name] for name, value in stop.target)]
        return min(found, key=lambda stop: tuple(_CODE).index(stop.code), default=None)

    @property
    def stops(self) -> tuple[Stop, ...]:
        """All that is stopped, as far as was read."""
        return tuple(self._stops.values())


def _belongs(context: StepContext) -> dict[str, Collection[str | None]]:
    """Return the names that a stop of a step may have; an agent that acts under another's token has two."""
    step, principal = context.step, context.principal
    agent = principal.agent_id if principal is not None else step.agent_id
    acting = step.metadata.get(ACTING_AGENT) if isinstance(step.metadata, Mapping) else None
    return {
        "run": (context.run_id,),
        "agent": (agent, acting),
        "tool": (step.tool,),
        "tenant": (context.tenant_id,),
    }


if TYPE_CHECKING:
    _: ComplianceChecker = SwitchPlugin(lambda context, record: None)
