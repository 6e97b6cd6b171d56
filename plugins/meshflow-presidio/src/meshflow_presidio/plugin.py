"""Stages 8 and 13: find sensitive data at any depth, and do with it what the settings and the obligations say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

from meshflow.plugin import (
    UNSET,
    Decision,
    Findings,
    Host,
    Obligation,
    Plugin,
    Purpose,
    StepContext,
    hookimpl,
)
from meshflow_presidio.actions import KeyedTokens, Vault, mask
from meshflow_presidio.scanner import TextScanner
from meshflow_presidio.secrets import SecretScanError
from meshflow_presidio.settings import KEYED, STRENGTH, Action, PresidioSettings
from meshflow_presidio.walk import Choose, Replace, Walk, WalkError

if TYPE_CHECKING:
    from meshflow.plugin import OutputGuard, SensitiveDataScanner

_INPUT, _OUTPUT = "sensitive_data_scan", "output_guardrails"
_NO_ARGUMENTS: frozenset[str] = frozenset()
_DETECTORS = ("presidio-analyzer", "phonenumbers", "redact-secret", "tldextract", "google-re2")


@dataclass(frozen=True, slots=True)
class _Demand:
    """What the obligations of a step ask to be masked: everything, or these entities."""

    entities: frozenset[str] = frozenset()
    everything: bool = False

    @classmethod
    def of(cls, obligations: tuple[Obligation, ...]) -> _Demand:
        entities: set[str] = set()
        everything = False
        for obligation in obligations:
            if obligation.name == "mask_entities":
                named = obligation.parameters.get("entities") or ()
                named = (named,) if isinstance(named, str) else named
                # A list that cannot be read, or none at all, asks for everything.
                everything = everything or not named or not all(isinstance(name, str) for name in named)
                entities.update(name for name in named if isinstance(name, str))
        return cls(frozenset(entities), everything)

    def raises(self, entity: str) -> bool:
        return self.everything or entity in self.entities


class PresidioPlugin(Plugin[PresidioSettings]):
    """Scans inputs (stage 8), outputs (stage 13) and all that the ledger keeps; meets ``mask_entities``."""

    settings_type = PresidioSettings
    meets: ClassVar[frozenset[str]] = frozenset({"mask_entities"})

    def __init__(self, settings: PresidioSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._actions = settings.actions()
        keyed = KEYED & {*self._actions.values(), settings.default_action} or settings.record_action == "hash"
        self._keyed = KeyedTokens.from_environment(settings.key_env, os.environ) if keyed else None
        self._vault = Vault(settings.vault_runs, settings.vault_values)
        self._scanner = TextScanner(settings, self.host.clock, self.host.base)
        self._allow_in = {tool: frozenset(names) for tool, names in settings.allow_in.items()}
        self._record_action = Action(settings.record_action)

    def assures(self) -> Mapping[str, Any]:
        """Vouch for what is looked for, and say what is done with it."""
        return {
            "entities": {entity: action.value for entity, action in self._actions.items()},
            "secrets_found": self.settings.secrets != "none",
            "outputs_scanned": self.settings.scan_output,
        }

    def adopt(self, previous: Plugin[Any]) -> None:
        """Go on with the surrogates of runs under way, so that one value does not get two names."""
        if isinstance(previous, PresidioPlugin):
            self._vault = Vault(self.settings.vault_runs, self.settings.vault_values, previous._vault)

    @hookimpl
    async def startup(self) -> None:
        """Import Presidio and build the recognisers, off the event loop."""
        await asyncio.to_thread(self._scanner.load)

    @cached_property
    def _versions(self) -> str:
        return ";".join(f"{name}={_version(name)}" for name in _DETECTORS)

    def digest(self) -> str:
        """Return the versions of the detectors: they decide what is found."""
        return self._versions

    @hookimpl
    async def scan_sensitive_data(self, context: StepContext) -> Decision:
        """Stage 8, and with purpose ``record`` all that the ledger is about to keep."""
        return await self._decide(_INPUT, context, context.input)

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
        """Stage 13: outputs as inputs, and what ``mask_entities`` asks of them."""
        demand = _Demand.of(context.obligations)
        if not self.settings.scan_output and not (demand.everything or demand.entities):
            return None
        return await self._decide(_OUTPUT, context, output)

    async def _decide(self, stage: str, context: StepContext, value: Any) -> Decision:
        if not self._scanner.loaded:
            await asyncio.to_thread(self._scanner.load)
        if _rough_chars(value, self.settings.thread_above) > self.settings.thread_above:
            return await asyncio.to_thread(self._answer, stage, context, value)
        return self._answer(stage, context, value)

    def _answer(self, stage: str, context: StepContext, value: Any) -> Decision:
        """Scan and decide; text that could not be scanned whole denies."""
        from meshflow_presidio.engine import ScanTimeoutError

        recording = context.purpose is Purpose.RECORD
        demand = _Demand() if recording else _Demand.of(context.obligations)
        missing = demand.entities - self._scanner.covered
        if missing:
            return Decision.deny(
                f"{stage}.entity_not_covered",
                f"mask_entities asks for {sorted(missing)}, which nothing loaded can find; list them under "
                "plugins.presidio.entities (PERSON and LOCATION also need plugins.presidio.model)",
            )
        walk = self._walk(context, demand, recording)
        self._scanner.start(self.settings.timeout_ms)
        try:
            tool = context.step.tool if stage == _INPUT and not recording else None
            left_alone = self._allow_in.get(tool, _NO_ARGUMENTS) if tool is not None else _NO_ARGUMENTS
            new = walk.run(value, left_alone=left_alone)
            if stage == _INPUT and not recording and context.step.metadata:
                walk.run(context.step.metadata, root="$metadata")
        except WalkError as error:
            return Decision.deny(f"{stage}.{error.cause}", error.reason)
        except ScanTimeoutError:
            return Decision.deny(
                f"{stage}.timeout",
                f"the scan took more than {self.settings.timeout_ms} ms; shorten the text or raise timeout_ms",
            )
        except SecretScanError as error:
            return Decision.deny(f"{stage}.scanner_unavailable", f"the secret scanner refused the text ({error})")
        return self._judge(stage, context, walk, value, new)

    def _judge(self, stage: str, context: StepContext, walk: Walk, value: Any, new: Any) -> Decision:
        evidence = _evidence(walk)
        if walk.actions[Action.DENY.value]:
            forbidden = sorted({f.entity for f in walk.findings if f.action == Action.DENY.value})
            return Decision.deny(
                f"{stage}.forbidden_entity",
                f"the text holds {', '.join(forbidden)}, which the settings forbid; take it out, or change the action",
                evidence=evidence,
            )
        if stage == _OUTPUT and new is not value and context.stream is not None and context.stream.final:
            return Decision.deny(
                "output_guardrails.sensitive_data_released",
                "the whole of the stream holds data that should have been masked before its release",
                evidence=evidence,
            )
        # Stage 13 leaves no fact.
        fact = Findings(tuple(walk.findings), self._scanner.not_covered) if stage == _INPUT else None
        return Decision.allow(fact=fact, replacement=UNSET if new is value else new, evidence=evidence)

    def _walk(self, context: StepContext, demand: _Demand, recording: bool) -> Walk:
        choose = self._choose_for_record() if recording else self._choose(demand)
        settings = self.settings
        return Walk(
            self._scanner,
            choose,
            self._replace(context),
            # Input and output together, each within its cap, must not be withheld from the record for their size.
            max_chars=settings.max_chars * (4 if recording else 1),
            max_nodes=settings.max_nodes * (4 if recording else 1),
            max_depth=settings.max_depth + (4 if recording else 0),
        )

    def _choose_for_record(self) -> Choose:
        action = self._record_action
        return lambda entity, left_alone: action

    def _choose(self, demand: _Demand) -> Choose:
        actions, default = self._actions, self.settings.default_action

        def choose(entity: str, left_alone: bool) -> Action:
            action = actions.get(entity, default)
            if left_alone and action is not Action.DENY:
                return Action.ALLOW
            if demand.raises(entity) and STRENGTH[action] < STRENGTH[Action.MASK]:
                return Action.MASK
            return action

        return choose

    def _replace(self, context: StepContext) -> Replace:
        tenant = context.tenant_id or ""
        run = (tenant, context.run_id)
        look_only = context.look_only

        def replace(entity: str, value: str, action: Action) -> str:
            if action is Action.SURROGATE:
                return self._vault.surrogate(run, entity, value, look_only=look_only)
            if self._keyed is not None and action is Action.HASH:
                return self._keyed.hashed(entity, value, tenant)
            if self._keyed is not None and action is Action.ENCRYPT:
                return self._keyed.sealed(entity, value, tenant)
            return mask(entity)

        return replace

    def restore(self, text: str, *, tenant_id: str, run_id: str) -> str:
        """Return the text with surrogates of the run and encrypted values of the tenant turned back.

        For an operator's own use, after checking that whoever asks may see them; the plugin itself never calls it.
        """
        text = self._vault.restored(text, (tenant_id, run_id))
        return self._keyed.opened(text, tenant_id) if self._keyed is not None else text


def _evidence(walk: Walk) -> Mapping[str, Any]:
    evidence: dict[str, Any] = {}
    if walk.entities:
        evidence["entities"] = dict(sorted(walk.entities.items()))
        evidence["actions"] = dict(sorted(walk.actions.items()))
        evidence["by_entity"] = {
            entity: dict(sorted(found.items())) for entity, found in sorted(walk.by_entity.items())
        }
    if walk.unscanned:
        evidence["unscanned"] = dict(sorted(walk.unscanned.items()))
    return evidence


def _rough_chars(value: Any, enough: int) -> int:
    """Return about how much text there is, stopping once there is enough: to decide where to scan, not whether."""
    total, todo = 0, [value]
    while todo and total <= enough:
        item = todo.pop()
        if isinstance(item, (str, bytes, bytearray)):
            total += len(item)
        elif isinstance(item, Mapping):
            total += 16 * len(item)
            todo.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            total += 16 * len(item)
            todo.extend(item)
    return total


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


if TYPE_CHECKING:
    _scan: SensitiveDataScanner = PresidioPlugin(PresidioSettings())
    _guard: OutputGuard = PresidioPlugin(PresidioSettings())
