"""A candidate bundle beside the one in force: asked about a share of the steps, recorded, never enforced."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from pydantic import Field

from meshflow.plugin import Decision, StepContext
from meshflow.policy.engine import EntryPoint
from meshflow_rego.plugin import RegoPlugin
from meshflow_rego.settings import RegoSettings

INSTEAD_OF = "instead_of"
"""The evidence that names the plugin whose answer this one would replace."""


class CandidateSettings(RegoSettings):
    """``plugins.candidate`` of meshflow.yaml: the settings of ``plugins.rego``, and a share of the steps."""

    bundle: str = Field(min_length=1, description="Folder of Rego files and data, or a single .rego file, to try.")
    share: float = Field(1.0, ge=0, le=1, description="Of all steps, the share that the candidate is asked about.")


class CandidatePlugin(RegoPlugin):
    """Named under ``also_shadow``, it answers as ``rego`` would with another bundle.

    Which steps it is asked about follows from their ids: all stages of a step or none. Where a configuration makes it
    decide, it decides about every step.
    """

    settings_type = CandidateSettings
    settings: CandidateSettings

    def given_policy(self) -> Any:
        """The policy that the runtime was given is the one in force."""
        return None

    async def _decide(self, context: StepContext, entry: EntryPoint, output: Any = None) -> Decision | None:
        if context.look_only and not _chosen(f"{context.run_id}:{context.step_id}", self.settings.share):
            return None
        decision = await super()._decide(context, entry, output)
        if decision is None:
            # Said aloud: a bundle that has lost an entry point would let through what the one in force denies there.
            return Decision.abstain(f"the bundle lacks {entry.rule}", evidence={INSTEAD_OF: "rego"})
        return Decision(
            decision.effect, decision.code, decision.reason, obligations=decision.obligations,
            evidence={**decision.evidence, INSTEAD_OF: "rego"},
        )  # fmt: skip


def _chosen(step: str, share: float) -> bool:
    place = int.from_bytes(blake2b(step.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return place < share * 2**64
