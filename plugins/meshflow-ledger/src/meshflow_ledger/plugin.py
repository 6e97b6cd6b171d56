"""Stage 14 on a ReplayLedger: its own one, or the one that the runtime was given."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from meshflow.errors import ConfigError, LedgerConflictError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.retention import RetentionRule
from meshflow.plugin import Approval, Auditor, Host, Plugin, Settings, StepContext, StepRecord, hookimpl
from meshflow_ledger.retention import Retention

_TRIES = 12


class LedgerSettings(Settings):
    """Where the ledger lies and how patient it is."""

    path: str = Field(
        "meshflow_runs.db",
        min_length=1,
        description="SQLite file of the ledger; a relative path starts from meshflow.yaml",
    )
    busy_timeout_ms: int = Field(
        15_000, ge=0, le=600_000, description="how long to wait for another process's write, in milliseconds"
    )
    queue_limit: int = Field(
        4_096, ge=1, le=1_000_000, description="records that may wait to be written before further steps wait, a count"
    )
    encrypt: Literal["none", "run", "subject"] = Field(
        "none", description="whose data key payloads are encrypted under, so that erasure can shred them"
    )
    key_encryption_key: str | None = Field(
        None, min_length=1, description="file, or env:NAME, with the key that wraps data keys, 32 bytes in base64"
    )
    retention: tuple[Retention, ...] = Field(
        (), description="how long payloads are kept, a list of rules of which the first that matches decides"
    )


class LedgerPlugin(Plugin[LedgerSettings]):
    """Writes intents and records durably before it returns; finds the approval of a resumed step.

    A ledger handed to the runtime is used as it is and stays open at shutdown: who opened it closes it.
    """

    settings_type = LedgerSettings
    section = "ledger"

    def __init__(self, settings: LedgerSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        given = self.host.ledger
        if given is not None and not isinstance(given, ReplayLedger):
            raise ConfigError(f"the ledger given is a {type(given).__name__}, not a ReplayLedger", where="ledger")
        self._given: ReplayLedger | None = given
        self._own: ReplayLedger | None = None

    @property
    def ledger(self) -> ReplayLedger:
        """The ledger in use; made, not yet opened, when first asked for."""
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = ReplayLedger(
                self._location(),
                clock=self.host.clock,
                busy_timeout_ms=self.settings.busy_timeout_ms,
                queue_limit=self.settings.queue_limit,
                encrypt=self.settings.encrypt,
                key_encryption_key=self._wrapping_key(),
            )
        return self._own

    @property
    def retention_rules(self) -> tuple[RetentionRule, ...]:
        """How long payloads are kept, as ``ReplayLedger.apply_retention`` takes it."""
        return tuple(one.rule() for one in self.settings.retention)

    def assures(self) -> Mapping[str, Any]:
        """Vouch for signatures, and say how payloads are encrypted and for how long they are kept."""
        return {
            "signed_checkpoints": self.ledger.signs,
            "encrypted_payloads": self.ledger.encrypts,
            "retention": [
                {
                    "keep_days": rule.keep_us / 86_400_000_000,
                    "everything": rule.everything,
                    "setting": ("ledger", "retention", place),
                }
                for place, rule in enumerate(self.retention_rules)
            ],
        }

    def _wrapping_key(self) -> str | None:
        key = self.settings.key_encryption_key
        return key if key is None or key.startswith("env:") else str(self.host.base / key)

    def _location(self) -> str | Path:
        path = self.settings.path
        # An address is left to the ledger, which says what it supports.
        return path if "://" in path or path == ":memory:" else self.host.base / path

    @hookimpl
    async def startup(self) -> None:
        """Open the file now, so that an unusable one stops the start and not the first step."""
        await self.ledger.open()

    @hookimpl
    async def shutdown(self) -> None:
        """Close the ledger, if it is our own."""
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()

    @hookimpl
    async def record_intent(self, context: StepContext) -> None:
        """Write durably that the step is about to run."""
        step, labels = context.step, context.labels
        await self.ledger.write_intent(
            Intent(
                run_id=context.run_id,
                step_id=context.step_id,
                attempt=context.attempt,
                node_id=step.node_id,
                node_kind=step.kind,
                tool=step.tool,
                action=step.action,
                tenant_id=context.tenant_id or "default",
                principal=context.principal,
                input=context.recorded_input,
                risk=context.risk.label if context.risk is not None else None,
                origin=labels.origin.name.lower() if labels is not None else None,
                confidentiality=labels.confidentiality.name.lower() if labels is not None else None,
                started_us=context.started_us,
                fingerprint=context.fingerprint,
                approval_id=context.approval.approval_id if context.approval is not None else None,
            )
        )

    @hookimpl
    async def record_audit(self, context: StepContext, record: StepRecord) -> None:
        """Write the record durably.

        A step that was refused because its attempt is another's is recorded under the next free attempt: it may not
        take the place of the outcome of what runs.
        """
        if record.intended:
            await self.ledger.write(record)
            return
        for tries in range(_TRIES):
            try:
                await self.ledger.write(record)
                return
            except LedgerConflictError:
                free = await self.ledger.next_attempt(record.run_id, record.step_id)
                # Apart from the others that were refused at the same moment and look for a number too.
                record = replace(record, attempt=free + random.randrange(2**tries))
        await self.ledger.write(record)

    @hookimpl
    async def find_approval(self, context: StepContext) -> Approval | None:
        """Return the latest decision on the step."""
        return await self.ledger.find_approval(context.run_id, context.step_id)


if TYPE_CHECKING:
    _: Auditor = LedgerPlugin(LedgerSettings())
