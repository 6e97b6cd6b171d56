"""Read an engine's raw result strictly, and turn the answer into the stage's Decision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from meshflow.decision import Decision, Effect, Obligation
from meshflow.policy.engine import PolicyAnswer, PolicyDuty, PolicyFailure, PolicyReason

DUTIES = "obligations"
"""The evidence's key for the obligations that an allowance or an escalation carries."""

_KEYS = frozenset({"allow", "reasons", "obligations", "escalate"})
_REASON_KEYS = frozenset({"code", "message", "rule", "control"})
_DUTY_KEYS = frozenset({"name", "parameters"})
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_CODE = re.compile(r"[a-z][a-z0-9_.]*")
_MAX_REASONS = 64
_MAX_TEXT = 500


class _MalformedError(ValueError):
    """Why a raw result is not the documented object."""

    cause = "malformed_answer"


class _NotBooleanError(_MalformedError):
    """Something other than true or false stands where only they may."""

    cause = "not_boolean"


def parse_answer(raw: Any) -> PolicyAnswer | PolicyFailure:
    """Return the answer that a raw JSON result states.

    An unknown key is refused, since ``escalte: true`` that passes for "no escalation" would let the step go on.
    """
    try:
        return _answer(raw)
    except _MalformedError as error:
        return PolicyFailure(error.cause, str(error))


def _answer(raw: Any) -> PolicyAnswer:
    body = _object(raw, "the answer", _KEYS)
    if "allow" not in body:
        raise _MalformedError("the answer must have allow")
    escalate = body.get("escalate", False)
    for name, value in (("allow", body["allow"]), ("escalate", escalate)):
        if type(value) is not bool:
            raise _NotBooleanError(f"{name} must be true or false, not {_kind(value)}")
    reasons = _list(body, "reasons")
    duties = _list(body, "obligations")
    return PolicyAnswer(
        body["allow"],
        tuple(map(_reason, reasons)) if reasons else (),
        tuple(map(_duty, duties)) if duties else (),
        escalate,
    )


def _reason(raw: Any) -> PolicyReason:
    body = _object(raw, "a reason", _REASON_KEYS)
    for key, value in body.items():
        if type(value) is not str:
            raise _MalformedError(f"a reason's {key} must be text, not {_kind(value)}")
    code = body.get("code", "")
    if not _CODE.fullmatch(code) or len(code) > _MAX_TEXT:
        raise _MalformedError("a reason's code must be lower-case letters, digits, '_' and '.'")
    return PolicyReason(
        code, body.get("message", "")[:_MAX_TEXT], body.get("rule", "")[:_MAX_TEXT], body.get("control", "")[:_MAX_TEXT]
    )


def _duty(raw: Any) -> PolicyDuty:
    body = _object(raw, "an obligation", _DUTY_KEYS)
    name, parameters = body.get("name"), body.get("parameters", {})
    if type(name) is not str or not _NAME.fullmatch(name):
        raise _MalformedError("an obligation's name must be lower-case letters, digits and '_'")
    if type(parameters) is not dict:
        raise _MalformedError(f"an obligation's parameters must be an object, not {_kind(parameters)}")
    return PolicyDuty(name, parameters)


def _object(raw: Any, what: str, keys: frozenset[str]) -> dict[str, Any]:
    if type(raw) is not dict:
        raise _MalformedError(f"{what} must be an object, not {_kind(raw)}")
    if not raw.keys() <= keys:
        raise _MalformedError(f"{what} has a key beside {', '.join(sorted(keys))}")
    return raw


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body.get(key, [])
    if type(value) is not list:
        raise _MalformedError(f"{key} must be a list or a set, not {_kind(value)}")
    if len(value) > _MAX_REASONS:
        raise _MalformedError(f"{key} has more than {_MAX_REASONS} members")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null or nothing"
    return {bool: "a boolean", str: "text", list: "a list or a set", dict: "an object"}.get(type(value), "a number")


def decision_from(
    answer: PolicyAnswer | PolicyFailure, prefix: str, evidence: Mapping[str, Any], *, fact: Any = None
) -> Decision:
    """Return the decision for an answer. ``prefix`` starts its code; ``evidence`` says what engine and bundle decided.

    The codes are ``<prefix>denied``, ``<prefix>escalated`` and ``<prefix><cause>`` for each failure.
    """
    if isinstance(answer, PolicyFailure):
        return Decision.deny(prefix + answer.cause, answer.message, evidence={**evidence, "cause": answer.cause})
    reasons = answer.reasons
    if reasons:
        evidence = {**evidence, **_told(reasons)}
    if answer.obligations and answer.allow:
        evidence = {**evidence, DUTIES: told_duties(answer.obligations)}
    if not answer.allow:
        return Decision.deny(prefix + "denied", _sentence(reasons, "refused"), evidence=evidence)
    duties = tuple(Obligation(duty.name, duty.parameters) for duty in answer.obligations)
    if answer.escalate:
        reason = _sentence(reasons, "sent to a person")
        return Decision(Effect.ESCALATE, prefix + "escalated", reason, fact, obligations=duties, evidence=evidence)
    return Decision.allow(fact=fact, obligations=duties, evidence=evidence)


def told_duties(duties: Iterable[PolicyDuty | Obligation]) -> list[dict[str, Any]]:
    """Return obligations as evidence has them."""
    return [{"name": duty.name, "parameters": dict(duty.parameters)} for duty in duties]


def _told(reasons: tuple[PolicyReason, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "codes": list(dict.fromkeys(reason.code for reason in reasons)),
        "rules": list(dict.fromkeys(reason.rule for reason in reasons if reason.rule)),
    }
    controls = list(dict.fromkeys(reason.control for reason in reasons if reason.control))
    if controls:
        told["controls"] = controls
    return told


def _sentence(reasons: tuple[PolicyReason, ...], verb: str) -> str:
    if not reasons:
        return f"{verb} by the policy, which gave no reason"
    first = [f"{verb} by {_named(reason)}" for reason in reasons[:3]]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return "; ".join(first) + more


def _named(reason: PolicyReason) -> str:
    name = reason.rule or reason.code
    control = f" ({reason.control})" if reason.control else ""
    return f"{name}{control}: {reason.message}" if reason.message else f"{name}{control}"
