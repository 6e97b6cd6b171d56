"""What stages find out about a step and leave for the stages after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the fact of stage 1.

    ``subject`` is the accountable party, ``agent_id`` the agent acting for it. ``verified`` is False for a local
    principal that no credential backs. ``expires_at_us`` is None where the credential has no end.
    """

    subject: str
    agent_id: str
    issuer: str = "local"
    verified: bool = False
    roles: tuple[str, ...] = ()
    tenant: str | None = None
    token_id: str | None = None
    expires_at_us: int | None = None
    claims: Mapping[str, Any] = field(default_factory=_nothing)

    def identity(self) -> dict[str, Any]:
        """Return what tells who asks from everybody else, whatever credential and roles they come with."""
        names = ("subject", "agent_id", "issuer", "verified", "tenant")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class TenantScope:
    """Whose data the step may touch: the fact of stage 2."""

    tenant_id: str


@dataclass(frozen=True, slots=True)
class RateLease:
    """Leave to go on, by the limits named: the fact of stage 3. Remaining counts are per limit."""

    remaining: Mapping[str, int] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class BudgetReservation:
    """What stage 4 set aside for the step, in micro-USD, tokens and steps."""

    hold_id: str
    micro_usd: int = 0
    tokens: int = 0
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ComplianceProfile:
    """The profile packs in force for the step: the fact of stage 6."""

    names: tuple[str, ...]
    digest: str
    controls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of sensitive data: what kind, where (a JSON path), and what was done. Never the text itself."""

    entity: str
    path: str
    action: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What stage 8 found, and the entity kinds that it cannot see at all."""

    items: tuple[Finding, ...] = ()
    not_covered: tuple[str, ...] = ()


class RiskTier(IntEnum):
    """How much harm a step can do: the fact of stage 9. A higher number is a higher risk."""

    READ_ONLY = 0
    INTERNAL = 1
    EXTERNAL_IO = 2
    IRREVERSIBLE = 3

    @classmethod
    def parse(cls, name: str) -> RiskTier:
        """Return the tier of a name such as ``read_only``; raise ValueError naming the choices."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ValueError(f"unknown risk tier {name!r}; choose one of {[t.label for t in cls]}") from None

    @property
    def label(self) -> str:
        """Return the tier's name as settings and records write it."""
        return self.name.lower()


class Origin(IntEnum):
    """Where a value came from; the higher, the less it is trusted."""

    TRUSTED = 0
    USER = 1
    TOOL = 2
    EXTERNAL = 3


class Confidentiality(IntEnum):
    """Who may see a value; the higher, the fewer."""

    PUBLIC = 0
    INTERNAL = 1
    TENANT = 2
    PERSONAL = 3
    SECRET = 4


@dataclass(frozen=True, slots=True)
class TaintLabels:
    """The join of the labels of all that a step read: the fact of stage 10 (a lattice, after Denning 1976)."""

    origin: Origin = Origin.TRUSTED
    confidentiality: Confidentiality = Confidentiality.PUBLIC
    sources: tuple[str, ...] = ()

    @classmethod
    def named(cls, origin: str, confidentiality: str, *sources: str) -> TaintLabels:
        """Return labels by the names of their levels, in whatever case; KeyError for a name that is none."""
        return cls(Origin[origin.upper()], Confidentiality[confidentiality.upper()], sources)

    def join(self, other: TaintLabels) -> TaintLabels:
        """Return the least label that covers both."""
        return TaintLabels(
            max(self.origin, other.origin),
            max(self.confidentiality, other.confidentiality),
            tuple(dict.fromkeys(self.sources + other.sources)),
        )


FACT_OF_STAGE: Mapping[str, type] = MappingProxyType(
    {
        "identity_verification": Principal,
        "tenant_scoping": TenantScope,
        "rate_limiting": RateLease,
        "budget_check": BudgetReservation,
        "compliance_profile": ComplianceProfile,
        "sensitive_data_scan": Findings,
        "risk_classification": RiskTier,
        "taint_propagation": TaintLabels,
    }
)
"""The type that a stage's fact must have; a fact of another type, or from a stage not named here, denies."""
