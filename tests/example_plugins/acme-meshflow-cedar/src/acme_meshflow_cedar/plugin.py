"""Stage 5 by Cedar."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cedarpy

from acme_meshflow_cedar import codes
from acme_meshflow_cedar.request import Unsupported, request_for, user_entity
from acme_meshflow_cedar.settings import CedarSettings
from meshflow.plugin import ConfigError, Decision, Host, Plugin, PolicyEvaluator, Principal, StepContext, hookimpl


class CedarPolicy(Plugin[CedarSettings]):
    """Allows what a permit policy allows and no forbid policy forbids."""

    settings_type = CedarSettings

    def __init__(self, settings: CedarSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._text = settings.policies if settings.policies is not None else self._read("policies_file")
        entities = self._read("entities_file") if settings.entities_file is not None else "[]"
        self._digest = sha256(f"{len(self._text)}:{self._text}{entities}".encode()).hexdigest()
        try:
            self._policies = cedarpy.PolicySet.from_str(self._text)
        except ValueError as error:
            raise ConfigError(f"the Cedar policies do not parse: {error}", path="plugins.cedar.policies") from error
        try:
            self._entities = cedarpy.Entities.from_json_str(entities)
            self._users = frozenset(_user_ids(json.loads(entities)))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the Cedar entities do not parse: {error}", path="plugins.cedar.entities_file"
            ) from error

    def digest(self) -> str:
        """Return the digest of policies and entities."""
        return self._digest

    @hookimpl
    async def evaluate_policy(self, context: StepContext) -> Decision:
        """Ask Cedar, which takes some twenty microseconds: too short to leave the event loop for."""
        principal = context.principal
        if principal is None:
            return Decision.deny(codes.NO_PRINCIPAL, "stage 1 left no principal; enable an identity provider")
        try:
            result = self._ask(context, principal)
        except (Unsupported, UnicodeEncodeError, RecursionError) as error:
            reason = str(error) if isinstance(error, Unsupported) else "the step holds text that is not valid Unicode"
            return Decision.deny(codes.UNSUPPORTED, f"{reason}; Cedar cannot decide on it")
        return self._decision(result)

    def _ask(self, context: StepContext, principal: Principal) -> cedarpy.AuthzResult:
        request = request_for(context, principal)
        if len(json.dumps(request["context"])) > self.settings.max_argument_bytes:
            raise Unsupported("the arguments are longer than plugins.cedar.max_argument_bytes")
        entities = self._entities
        if principal.subject not in self._users:
            entities = entities.with_added_json_str(json.dumps([user_entity(principal)], ensure_ascii=False))
        return cedarpy.is_authorized(request, self._policies, entities)

    def _decision(self, result: cedarpy.AuthzResult) -> Decision:
        diagnostics = result.diagnostics
        names = [diagnostics.id_annotations_by_reason.get(reason, reason) for reason in diagnostics.reasons]
        if diagnostics.errors or result.decision is cedarpy.Decision.NoDecision:
            # Cedar skips a policy that fails; a forbid that is skipped would permit.
            return Decision.deny(
                codes.CEDAR_ERROR, "Cedar could not evaluate every policy on this step", evidence={"matched": names}
            )
        if result.allowed:
            return Decision.allow(reason=f"permitted by {', '.join(names)}", evidence={"policies": names})
        reason = f"forbidden by {', '.join(names)}" if names else "no Cedar policy permits it"
        return Decision.deny(codes.DENIED, reason, evidence={"policies": names})

    def _read(self, setting: str) -> str:
        path = self.host.base / Path(getattr(self.settings, setting))
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}", path=f"plugins.cedar.{setting}") from error


def _user_ids(entities: list[dict[str, Any]]) -> list[str]:
    uids = [entity["uid"] for entity in entities]
    return [uid["id"] for uid in uids if isinstance(uid, dict) and uid.get("type") == "User"]


if TYPE_CHECKING:
    _: PolicyEvaluator = CedarPolicy(CedarSettings())
