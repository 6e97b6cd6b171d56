"""Stage 1: say who asks, by a signed token or, where no keys are configured, as an unverified local principal."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from meshflow.plugin import (
    ConfigError,
    Decision,
    Host,
    IdentityVerifier,
    Plugin,
    Principal,
    StepContext,
    hookimpl,
)
from meshflow_identity import codes
from meshflow_identity.bindings import Binding, RunBindings
from meshflow_identity.claims import ClaimsReader, Verified, is_identifier
from meshflow_identity.keys import KeyRing
from meshflow_identity.refused import RefusedError
from meshflow_identity.revocation import Revocations
from meshflow_identity.settings import IdentitySettings
from meshflow_identity.token import TokenReader

_LOCAL_AGENT = "local"
_WHO = ("issuer", "subject", "agent_id", "tenant")


class IdentityPlugin(Plugin[IdentitySettings]):
    """Verifies signed agent tokens.

    A verified token is remembered by its digest, for as long as the keys stay as they are. Time, revocation and the run
    that the token is bound to are checked again each time. What is remembered and bound is of this process only.
    """

    settings_type = IdentitySettings

    def __init__(self, settings: IdentitySettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        base = self.host.base
        jwks, revoked = settings.jwks_file, settings.revocation_file
        self._keys = KeyRing(settings.keys, base / jwks if jwks is not None else None, base)
        self._revocations = Revocations(
            settings.revoked_tokens, settings.revoked_subjects, base / revoked if revoked is not None else None
        )
        self._tokens = TokenReader(settings.algorithms, settings.typ, settings.max_token_bytes)
        self._claims = ClaimsReader(settings)
        self._bindings = RunBindings(settings.max_bindings)
        self._known: OrderedDict[bytes, Verified] = OrderedDict()
        self._known_generation = 0

    def adopt(self, previous: Plugin[Any]) -> None:
        """Go on with the bindings: a token shown in one run stays refused in others."""
        if isinstance(previous, IdentityPlugin):
            self._bindings = RunBindings(self.settings.max_bindings, previous._bindings)

    def assures(self) -> Mapping[str, Any]:
        """Vouch for verified principals, where there are keys."""
        settings = self.settings
        return {
            "verified_identity": settings.has_keys,
            "token_bound_to_run": settings.has_keys and settings.bind_to_run,
            "revocable_identity": settings.has_keys and settings.revocation_file is not None,
        }

    @hookimpl
    async def startup(self) -> None:
        """Read keys and revocations, so that a wrong file is found before the first step."""
        await self._refresh()
        problem = self._keys.problem or self._revocations.problem
        if problem is not None:
            raise ConfigError(problem, path="plugins.identity")

    @hookimpl
    async def verify_identity(self, context: StepContext) -> Decision:
        """Answer with the principal that the credential proves, or deny with what is wrong with it."""
        await self._refresh()
        try:
            principal = self._identify(context)
            self._check_revocation(principal)
        except RefusedError as refused:
            return Decision.deny(refused.code, refused.reason)
        return Decision.allow(fact=principal)

    def _identify(self, context: StepContext) -> Principal:
        if context.approval is not None:
            return self._asked(context.approval.principal, context.step.credential)
        credential = context.step.credential
        if not self.settings.has_keys:
            return _local(context, credential)
        if credential is None:
            raise RefusedError(codes.NO_CREDENTIAL, "the step has no credential; pass the agent's token as credential=")
        verified = self._verify(context, credential)
        principal = verified.principal
        agent_id = context.step.agent_id
        if agent_id not in (_LOCAL_AGENT, principal.agent_id):
            raise RefusedError(
                codes.AGENT_MISMATCH, "the step's agent_id is not the token's; leave agent_id out or make them equal"
            )
        # Before the token is bound, so that one which is revoked, or of another agent, takes no place.
        self._check_revocation(principal)
        self._bind(context, credential, verified)
        return principal

    def _asked(self, principal: Principal, credential: object) -> Principal:
        """Return who asked. A token shown with the resumed step must be theirs, in the same tenant, expired or not.

        Who asked was verified and recorded then, and their token may well have expired while a person decided.
        """
        if credential is not None and self.settings.has_keys:
            claims = self._tokens.read(self._tokens.check_size(credential), self._keys)
            shown = self._claims.read(claims).principal
            if any(getattr(shown, name) != getattr(principal, name) for name in _WHO):
                raise RefusedError(
                    codes.APPROVAL_MISMATCH, "the token is not of the principal that asked; resume with theirs, or none"
                )
        return principal

    def _verify(self, context: StepContext, credential: object) -> Verified:
        token = self._tokens.check_size(credential)
        if self._keys.problem is not None:
            raise RefusedError(codes.KEYS_UNAVAILABLE, f"{self._keys.problem}; mend the file or the setting")
        if self._known_generation != self._keys.generation:
            self._known.clear()
            self._known_generation = self._keys.generation
        now_us = context.clock.now_us()
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        verified = self._known.get(digest)
        if verified is None:
            verified = self._claims.read(self._tokens.read(token, self._keys))
            verified.check_time(now_us)
            if not context.look_only:
                self._remember(digest, verified)
        else:
            self._check_known(digest, verified, now_us)
        return verified

    def _remember(self, digest: bytes, verified: Verified) -> None:
        self._known[digest] = verified
        while len(self._known) > self.settings.max_cached:
            self._known.popitem(last=False)

    def _check_known(self, digest: bytes, verified: Verified, now_us: int) -> None:
        try:
            verified.check_time(now_us)
        except RefusedError:
            self._known.pop(digest, None)
            raise
        self._known.move_to_end(digest)

    def _bind(self, context: StepContext, credential: str, verified: Verified) -> None:
        if not self.settings.bind_to_run:
            return
        principal = verified.principal
        if principal.token_id is not None:
            token = ("jti", principal.token_id)
        else:
            # Without the signature, which can be written in more than one way.
            token = ("content", sha256(credential.rpartition(".")[0].encode("ascii")).hexdigest())
        bound = self._bindings.show(
            token, context.run_id, verified.expires_us, context.clock.now_us(), bind=not context.look_only
        )
        if bound is Binding.OTHER_RUN:
            raise RefusedError(
                codes.TOKEN_REPLAYED, "the token was first shown in another run; issue a new one for each run"
            )
        if bound is Binding.FORGOTTEN:
            raise RefusedError(codes.EXPIRED, "the token had expired before the clock was set back")
        if bound is Binding.FULL:
            raise RefusedError(
                codes.BINDINGS_FULL,
                f"{self.settings.max_bindings} unexpired tokens are bound to runs; issue shorter-lived ones, "
                "or raise plugins.identity.max_bindings",
            )

    def _check_revocation(self, principal: Principal) -> None:
        problem = self._revocations.problem
        if problem is not None:
            raise RefusedError(codes.REVOCATIONS_UNAVAILABLE, f"{problem}; mend the revocation file")
        revoked = self._revocations.revoked(principal)
        if revoked is not None:
            raise RefusedError(codes.REVOKED, f"the {revoked} has been revoked")

    async def _refresh(self) -> None:
        # A stat takes a microsecond or two; reading and parsing leave the loop.
        if self.settings.has_keys and self._keys.stale():
            await asyncio.to_thread(self._keys.refresh)
        if self._revocations.stale():
            await asyncio.to_thread(self._revocations.refresh)


def _local(context: StepContext, credential: object) -> Principal:
    if credential is not None:
        raise RefusedError(
            codes.NO_KEYS,
            "the step has a credential and there is no key to verify it with; set plugins.identity.keys or jwks_file",
        )
    agent_id = context.step.agent_id
    if not is_identifier(agent_id):
        raise RefusedError(codes.INVALID_AGENT, "the step's agent_id is not 1 to 256 printable characters")
    return Principal(subject=_LOCAL_AGENT, agent_id=agent_id)


if TYPE_CHECKING:
    _: IdentityVerifier = IdentityPlugin(IdentitySettings())
