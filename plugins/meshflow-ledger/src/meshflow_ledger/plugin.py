"""Stage 14 on a ReplayLedger: its own one, or the one that the runtime was given."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from meshflow.checkpoint.erasing import ErasedWith
from meshflow.errors import ConfigError, LedgerConflictError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.anchors import ContradictionError
from meshflow.ledger.anchors.publisher import Publisher
from meshflow.ledger.retention import RetentionRule
from meshflow.plugin import Approval, Auditor, Host, Plugin, RiskTier, Settings, StepContext, StepRecord, hookimpl
from meshflow_ledger.anchors import AnchorUse, anchors_of
from meshflow_ledger.retention import Retention

_TRIES = 12
_START_S = 5.0
_SHUTDOWN_S = 15.0


class LedgerSettings(Settings):
    """Where the ledger lies and how patient it is."""

    path: str = Field(
        "meshflow_runs.db",
        min_length=1,
        description="SQLite file of the ledger, from meshflow.yaml if it is relative, or a postgresql:// URL",
    )
    busy_timeout_ms: int = Field(
        15_000, ge=0, le=600_000, description="how long to wait for another process's write, in milliseconds"
    )
    queue_limit: int = Field(
        4_096, ge=1, le=1_000_000, description="records that may wait to be written before further steps wait, a count"
    )
    key: str | None = Field(
        "auto",
        min_length=1,
        description="signing key: auto for a file beside the ledger, another file, env:NAME, or null to sign nothing",
    )
    checkpoint_every: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="entries after which a checkpoint is signed, a count; above 1 the newest have none for a while",
    )
    checkpoint_within_ms: int = Field(
        1_000, ge=1, le=3_600_000, description="how long an entry may be without a checkpoint then, in milliseconds"
    )
    ml_dsa_44: bool = Field(
        False, description="sign each checkpoint with an ML-DSA-44 key too, which withstands quantum computers"
    )
    anchors: tuple[AnchorUse, ...] = Field(
        (), description="where checkpoints are published, as {use: name} with the settings of that anchor"
    )
    anchor_every_s: int = Field(
        60, ge=1, le=86_400, description="seconds between two checkpoints that are published, if entries have come"
    )
    encrypt: Literal["none", "run", "subject"] = Field(
        "none", description="whose data key payloads are encrypted under, so that erasure can shred them"
    )
    key_encryption_key: str | None = Field(
        None, min_length=1, description="file, or env:NAME, with the key that wraps data keys, 32 bytes in base64"
    )
    graph_checkpoints: tuple[str, ...] = Field(
        (),
        description="checkpoint stores whose threads go when their runs' texts are erased: SQLite files, from "
        "meshflow.yaml if they are relative, or postgresql:// URLs",
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
            raise ConfigError(f"the ledger given is of type {type(given).__name__}, not a ReplayLedger", where="ledger")
        if settings.anchors and settings.key is None and given is None:
            raise ConfigError("anchors keep signed checkpoints; set a key", path="ledger.key")
        self.anchors = anchors_of(settings.anchors, self.host.base)
        self._given: ReplayLedger | None = given
        self._own: ReplayLedger | None = None
        self._publisher: Publisher | None = None

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
                key=self._beside(self.settings.key),
                checkpoint_every=self.settings.checkpoint_every,
                checkpoint_within_ms=self.settings.checkpoint_within_ms,
                ml_dsa_44=self.settings.ml_dsa_44,
                encrypt=self.settings.encrypt,
                key_encryption_key=self._beside(self.settings.key_encryption_key),
            )
            self._own.also_erase(*(ErasedWith(self._placed(one)) for one in self.settings.graph_checkpoints))
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

    def _beside(self, key: str | None) -> str | None:
        """Return where a key is; a relative path starts from meshflow.yaml."""
        return key if key is None or key == "auto" or key.startswith("env:") else str(self.host.base / key)

    def _location(self) -> str | Path:
        path = self.settings.path
        return path if path == ":memory:" else self._placed(path)

    def _placed(self, path: str) -> str | Path:
        # An address is left to whoever opens it, who says what is supported.
        return path if "://" in path else self.host.base / path

    @hookimpl
    async def startup(self) -> None:
        """Open the file now, so that an unusable one stops the start and not the first step.

        So does an anchor that contradicts the ledger; one that cannot be reached is tried again in the background.
        """
        await self.ledger.open()
        if self.anchors:
            publisher = Publisher(self.ledger, self.anchors, every_s=self.settings.anchor_every_s)
            try:
                await publisher.start(patience_s=_START_S)
            except ContradictionError:
                await publisher.aclose(patience_s=_START_S)
                await self.shutdown()
                raise
            self._publisher = publisher

    @hookimpl
    async def shutdown(self) -> None:
        """Publish the last checkpoint, and close the ledger, if it is our own."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.aclose(patience_s=_SHUTDOWN_S)
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()

    def _refuse_if_contradicted(self) -> None:
        """Let nothing more happen on the strength of a history that was rewritten."""
        if self._publisher is not None and (problem := self._publisher.contradiction):
            raise ContradictionError(problem)

    @hookimpl
    async def record_intent(self, context: StepContext) -> None:
        """Write durably that the step is about to run."""
        self._refuse_if_contradicted()
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
        take the place of the outcome of what runs. When an anchor contradicts the ledger, the record of a step that
        read something is written and its output withheld; one with effects is refused before it runs.
        """
        await self._write(record)
        if record.executed and record.risk == RiskTier.READ_ONLY.label:
            self._refuse_if_contradicted()

    async def _write(self, record: StepRecord) -> None:
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
