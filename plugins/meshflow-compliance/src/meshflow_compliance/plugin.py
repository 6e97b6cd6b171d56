"""Ask every active profile pack about the step; the strictest answer holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

from meshflow.errors import ConfigError
from meshflow.plugin import ComplianceProfile, Decision, Demand, Effect, Host, Plugin, StepContext, Wiring, hookimpl
from meshflow.policy import Policy, PolicyEngine, PolicyFailure, decision_from, step_document
from meshflow.policy.answer import DUTIES, told_duties
from meshflow.policy.bundle import Bundle
from meshflow.policy.engine import COMPLIANCE
from meshflow.profiles.compose import Composition, compose
from meshflow.profiles.demands import demands_of
from meshflow.profiles.packs import Pack, find_pack
from meshflow_compliance.codes import PREFIX
from meshflow_compliance.settings import ComplianceSettings

if TYPE_CHECKING:
    from meshflow.plugin import ComplianceChecker


@dataclass(frozen=True, slots=True)
class _Active:
    pack: Pack
    engine: PolicyEngine
    evidence: dict[str, Any]


class CompliancePlugin(Plugin[ComplianceSettings]):
    """Applies profile packs. Without any it abstains."""

    settings_type = ComplianceSettings
    section: ClassVar[str | None] = "profiles"

    def __init__(self, settings: ComplianceSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._lock = threading.Lock()
        self._packs: tuple[Pack, ...] | None = None
        self._composition: Composition | None = None
        self._active: tuple[_Active, ...] | None = None
        self._fact = ComplianceProfile((), "")

    def digest(self) -> str:
        """Return the digest of all active packs, manifests and settings included; reads them on first use."""
        packs = self.packs()
        return sha256("\n".join(pack.digest for pack in packs).encode()).hexdigest() if packs else ""

    def packs(self) -> tuple[Pack, ...]:
        """Return the active packs; ConfigError for one that is missing or wrong, or for two that cannot hold together.

        What a pack extends is part of it: see ``Pack.line``.
        """
        with self._lock:
            if self._packs is None:
                packs = tuple(self._pack(index) for index in range(len(self.settings.uses)))
                self._composition = compose(list(enumerate(packs)))
                self._packs = packs
            return self._packs

    def _pack(self, index: int) -> Pack:
        use = self.settings.uses[index]
        try:
            return find_pack(use.use, use.given, self.host.base)
        except ConfigError as error:
            if error.where or error.path != "profiles":
                raise
            raise ConfigError(error.problem, path=f"profiles[{index}]") from None

    def demands(self, wiring: Wiring) -> Iterable[Demand]:
        """Yield what the active packs need of the pipeline and do not find."""
        if not self.packs() or self._composition is None:
            return ()
        return demands_of(self._composition, wiring)

    @hookimpl
    async def startup(self) -> None:
        """Load the packs' rules; ConfigError names file and line of what is wrong."""
        await self._start()

    @hookimpl
    async def shutdown(self) -> None:
        """End the engines."""
        active, self._active = self._active or (), None
        for one in active:
            await one.engine.close()

    @hookimpl
    async def apply_compliance_profile(self, context: StepContext) -> Decision | None:
        """Stage 6: the answers of all packs in one decision, their obligations together."""
        active = self._active
        if active is None:
            active = await self._start()
        if not active:
            return None
        try:
            document = step_document(context, COMPLIANCE)
        except ValueError:
            failure = PolicyFailure("unencodable_input", "the step's estimate is no amount of money")
            return decision_from(failure, PREFIX, active[0].evidence)
        return _strictest([await self._ask(one, document) for one in active], self._fact)

    async def _ask(self, one: _Active, document: dict[str, Any]) -> Decision:
        answer = await one.engine.evaluate(COMPLIANCE.rule, document)
        evidence = one.evidence
        if not isinstance(answer, PolicyFailure):
            control = next((reason.control for reason in answer.reasons if reason.control), None)
            evidence = evidence if control is None else {**evidence, "control": control}
        return decision_from(answer, PREFIX, evidence)

    async def _start(self) -> tuple[_Active, ...]:
        packs = await asyncio.to_thread(self.packs)
        lines = {one.digest: one for pack in packs for one in pack.line()}.values()
        active = tuple([await self._open(pack, pack.bundle) for pack in lines if pack.bundle is not None])
        controls = dict.fromkeys(control.id for pack in lines for control in pack.manifest.controls)
        names = dict.fromkeys(pack.manifest.name for pack in lines)
        self._fact = ComplianceProfile(tuple(names), self.digest(), tuple(controls))
        self._active = active
        return active

    async def _open(self, pack: Pack, bundle: Bundle) -> _Active:
        engine = Policy(bundle).engine(max_input_bytes=self.settings.max_input_bytes)
        await engine.start()
        if not engine.has(COMPLIANCE.rule):
            raise ConfigError(f"the profile {pack.manifest.name} lacks {COMPLIANCE.rule}", path="profiles")
        evidence = {
            "profile": pack.manifest.name,
            "profile_version": pack.manifest.version,
            "engine": f"{engine.name} {engine.version}",
            "bundle_digest": engine.bundle_digest,
        }
        return _Active(pack, engine, evidence)


def _strictest(decisions: list[Decision], fact: ComplianceProfile) -> Decision:
    """Return the first denial; or else one decision with all obligations, that escalates if any does.

    Its evidence has ``profiles``, all in force, and ``said``: the effect and the codes of each that did not just allow.
    """
    said = _said(decisions)
    told = {"profiles": list(fact.names), **({"said": said} if said else {})}
    for decision in decisions:
        if decision.effect is Effect.DENY:
            return replace(decision, evidence={**decision.evidence, **told})
    asking = next((decision for decision in decisions if decision.effect is Effect.ESCALATE), None)
    chosen = asking or decisions[0]
    duties = tuple(duty for decision in decisions for duty in decision.obligations)
    evidence = {**chosen.evidence, **told, **({DUTIES: told_duties(duties)} if duties else {})}
    if asking is not None:  # the codes of all that ask: an approval answers these, and no others
        codes = [code for one in decisions if one.effect is Effect.ESCALATE for code in one.evidence.get("codes", ())]
        evidence |= {"codes": list(dict.fromkeys(codes))} if codes else {}
    return Decision(chosen.effect, chosen.code, chosen.reason, fact, obligations=duties, evidence=evidence)


def _said(decisions: list[Decision]) -> dict[str, dict[str, Any]]:
    """Return the strictest effect and all codes of each profile, which may be in force with several settings."""
    said: dict[str, dict[str, Any]] = {}
    for effect in (Effect.DENY, Effect.ESCALATE):
        for decision in decisions:
            if decision.effect is effect:
                own = said.setdefault(decision.evidence["profile"], {"effect": effect.value, "codes": []})
                own["codes"] += [code for code in decision.evidence.get("codes", ()) if code not in own["codes"]]
    return said


if TYPE_CHECKING:
    _: ComplianceChecker = CompliancePlugin(ComplianceSettings())
