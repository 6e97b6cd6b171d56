"""What a stage answers: an effect, why, and what it leaves behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, Final

from meshflow.frozen import opened

_CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


class Effect(StrEnum):
    """What a provider says of a step, strongest first."""

    DENY = "deny"
    ESCALATE = "escalate"
    ALLOW = "allow"
    ABSTAIN = "abstain"


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset.UNSET
"""Stands for "no replacement", since None is a value that a step may carry."""


@dataclass(frozen=True, slots=True)
class Obligation:
    """A duty that comes with ALLOW: ``name`` (``mask_entities``, ``cap_output``, ...) and its parameters.

    A plugin declares the names it meets in ``Plugin.meets``. One that no later enforced provider meets denies the step.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Decision:
    """One provider's answer.

    ``code`` is stable and reads ``stage.cause``; a denial or an escalation without one is a ValueError. ``reason``
    is for people. ``fact`` is what the stage found (its type is fixed by the stage). ``replacement`` takes the place of
    the step's input, or of its output at stage 13. ``evidence`` (JSON values) is recorded and never enforced.
    """

    effect: Effect
    code: str = ""
    reason: str = ""
    fact: Any = None
    replacement: Any = UNSET
    obligations: tuple[Obligation, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=_nothing)

    def __post_init__(self) -> None:
        if (self.effect is _DENY or self.effect is _ESCALATE) and not _CODE.fullmatch(self.code):
            raise ValueError(
                f"a {self.effect.value} decision needs a code such as 'budget_check.exhausted', not {self.code!r}"
            )

    @classmethod
    def allow(
        cls,
        *,
        code: str = "",
        reason: str = "",
        fact: Any = None,
        replacement: Any = UNSET,
        obligations: tuple[Obligation, ...] = (),
        evidence: Mapping[str, Any] = _NOTHING,
    ) -> Decision:
        """Return a decision that lets the step go on."""
        decision = _Open()
        decision.effect = _ALLOW
        decision.code = code
        decision.reason = reason
        decision.fact = fact
        decision.replacement = replacement
        decision.obligations = obligations
        decision.evidence = evidence
        decision.__class__ = Decision
        return decision  # type: ignore[no-any-return]

    @classmethod
    def deny(cls, code: str, reason: str, *, evidence: Mapping[str, Any] = _NOTHING) -> Decision:
        """Return a decision that stops the step."""
        return cls(_DENY, code, reason, evidence=evidence)

    @classmethod
    def escalate(cls, code: str, reason: str, *, fact: Any = None, evidence: Mapping[str, Any] = _NOTHING) -> Decision:
        """Return a decision that asks a person, if every later gate agrees."""
        return cls(_ESCALATE, code, reason, fact, evidence=evidence)

    @classmethod
    def abstain(cls, reason: str = "", *, evidence: Mapping[str, Any] = _NOTHING) -> Decision:
        """Return a decision that says nothing for or against; the same as answering None, with a reason."""
        return cls(_ABSTAIN, "", reason, evidence=evidence)


# Enum member look-up goes through the metaclass; hoisted, it costs a quarter.
_DENY, _ESCALATE, _ALLOW, _ABSTAIN = Effect.DENY, Effect.ESCALATE, Effect.ALLOW, Effect.ABSTAIN
_Open = opened(Decision)
