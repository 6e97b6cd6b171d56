"""Checks the claims of a token whose signature holds, and makes a principal of them (RFC 7519, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from meshflow.plugin import Principal
from meshflow_identity import codes
from meshflow_identity.refused import RefusedError, shown
from meshflow_identity.settings import IdentitySettings

_LONGEST: Final = 256
_END_OF_TIME_S: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token says, and between which times; ``expires_us`` and ``valid_from_us`` have the leeway in them."""

    principal: Principal
    valid_from_us: int
    expires_us: int

    def check_time(self, now_us: int) -> None:
        """Raise RefusedError outside of the token's time."""
        if now_us >= self.expires_us:
            raise RefusedError(codes.EXPIRED, f"the token expired {(now_us - self.expires_us) // _SECOND_US} s ago")
        if now_us < self.valid_from_us:
            wait_s = -((now_us - self.valid_from_us) // _SECOND_US)
            raise RefusedError(codes.NOT_YET_VALID, f"the token is valid only in {wait_s} s; compare the clocks")


class ClaimsReader:
    """Reads claims by one set of settings."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._settings = settings
        self._leeway_us = settings.leeway_s * _SECOND_US
        self._audience = frozenset(settings.audience)

    def read(self, claims: dict[str, Any]) -> Verified:
        """Return the principal and its times; raise RefusedError for claims that are wrong, missing or for others."""
        settings = self._settings
        self._check_issuer(claims.get("iss"))
        self._check_audience(claims.get("aud"))
        expires_us = _time_us(claims, "exp")
        if expires_us is None:
            raise RefusedError(codes.MISSING_EXPIRY, "the token has no exp claim; issue it with an end")
        starts = (_time_us(claims, "nbf") or 0, _time_us(claims, "iat") or 0)
        token_id = _identifier(claims, "jti")
        if token_id is None and settings.require_token_id:
            raise RefusedError(codes.MISSING_TOKEN_ID, "the token has no jti claim; issue it with one")
        subject = _identifier(claims, "sub")
        if subject is None:
            raise RefusedError(codes.INVALID_CLAIM, "the token has no sub claim")
        principal = Principal(
            subject=subject,
            agent_id=_identifier(claims, settings.agent_claim) or _identifier(claims, "azp") or subject,
            issuer=str(settings.issuer),
            verified=True,
            roles=_roles(claims, settings.roles_claim),
            tenant=_text(claims, settings.tenant_claim),
            token_id=token_id,
            expires_at_us=expires_us,
            claims=MappingProxyType({name: claims[name] for name in settings.keep_claims if name in claims}),
        )
        return Verified(principal, max(starts) - self._leeway_us, expires_us + self._leeway_us)

    def _check_issuer(self, issuer: object) -> None:
        if issuer != self._settings.issuer:
            got = shown(issuer) if isinstance(issuer, str) else "missing or not a text"
            raise RefusedError(
                codes.WRONG_ISSUER, f"the token's issuer is {got}; plugins.identity.issuer is {self._settings.issuer!r}"
            )

    def _check_audience(self, audience: object) -> None:
        named = [audience] if isinstance(audience, str) else audience
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise RefusedError(codes.WRONG_AUDIENCE, "the token names no audience as a text or a list of texts")
        if self._audience.isdisjoint(named):
            raise RefusedError(
                codes.WRONG_AUDIENCE, f"the token is for another audience; ours is {sorted(self._audience)}"
            )


def _time_us(claims: dict[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RefusedError(codes.INVALID_CLAIM, f"the token's {name} is not a number of seconds")
    # Written so that NaN, with which every comparison is false, is refused too.
    if not 0 <= value <= _END_OF_TIME_S:
        raise RefusedError(codes.INVALID_CLAIM, f"the token's {name} is not a time between 1970 and 9999")
    return int(value * _SECOND_US)


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is not None and not isinstance(value, str):
        raise RefusedError(codes.INVALID_CLAIM, f"the token's {name} is not a text")
    return value


def _identifier(claims: dict[str, Any], name: str) -> str | None:
    value = _text(claims, name)
    if value is not None and not is_identifier(value):
        raise RefusedError(codes.INVALID_CLAIM, f"the token's {name} is not 1 to {_LONGEST} printable characters")
    return value


def is_identifier(value: object) -> bool:
    """Return whether a value can name a subject, an agent or a token: 1 to 256 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def _roles(claims: dict[str, Any], name: str) -> tuple[str, ...]:
    value = claims.get(name)
    if value is None:
        return ()
    roles = value.split() if isinstance(value, str) else value
    if not isinstance(roles, list) or not all(map(is_identifier, roles)):
        raise RefusedError(codes.INVALID_CLAIM, f"the token's {name} is not a list of role names")
    return tuple(dict.fromkeys(roles))
