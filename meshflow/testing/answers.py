"""Judge an answer of a gate by the contract of its stage, and compare two answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson

from meshflow.decision import UNSET, Decision, Effect, Obligation
from meshflow.facts import FACT_OF_STAGE, BudgetReservation
from meshflow.stages import SENSITIVE_DATA, Kind, Stage
from meshflow.step import StepContext

_STOPS = (Effect.DENY, Effect.ESCALATE)


def problems(stage: Stage, answer: object, context: StepContext) -> list[str]:
    """Return what is wrong with an answer, in words; an empty list for one that keeps the contract."""
    found = ["it wrote to the context, which is read-only"] if context._state.touched else []
    if answer is None:
        return found
    if type(answer) is not Decision:
        return [*found, f"it answered {type(answer).__name__}; answer a Decision or None"]
    return [
        *found,
        *_wrong_code(stage, answer),
        *_wrong_fact(stage, answer),
        *_wrong_replacement(stage, answer),
        *_wrong_obligations(answer),
        *unstorable(answer),
    ]


def unstorable(answer: Decision) -> list[str]:
    """Return why the words of an answer could not be written to a ledger."""
    found = []
    try:
        answer.reason.encode()
    except UnicodeEncodeError:
        found.append("its reason holds a lone surrogate, which no ledger can store")
    try:
        json.dumps(dict(answer.evidence), allow_nan=False)
        orjson.dumps(dict(answer.evidence))
    except (TypeError, ValueError, RecursionError) as error:
        found.append(f"its evidence is not JSON: {error}")
    if answer.effect in _STOPS and not answer.reason:
        found.append("it stops a step without a reason for people")
    return found


def comparable(answer: Any) -> tuple[str, ...]:
    """Return what must be equal in two answers to one question."""
    if not isinstance(answer, Decision):
        return (shown(answer),)
    fact = answer.fact
    if isinstance(fact, BudgetReservation):
        fact = replace(fact, hold_id="")
    return (
        answer.effect.value,
        answer.code,
        answer.reason,
        shown(fact),
        shown(answer.replacement),
        shown(answer.obligations),
    )


def shown(value: object) -> str:
    """Return a value's repr, or its type where it is nested too deeply for one."""
    try:
        return repr(value)
    except RecursionError:
        return f"<deep {type(value).__name__}>"


def _wrong_code(stage: Stage, answer: Decision) -> list[str]:
    if answer.effect not in _STOPS or answer.code.startswith(f"{stage.name}."):
        return []
    return [f"its code {answer.code!r} is not of the stage; begin it with {stage.name!r} and a dot"]


def _wrong_fact(stage: Stage, answer: Decision) -> list[str]:
    wanted = FACT_OF_STAGE.get(stage.name)
    if answer.fact is not None:
        if wanted is None:
            return [f"it left a fact, {type(answer.fact).__name__}, where the stage has none"]
        if not isinstance(answer.fact, wanted):
            return [f"it left a {type(answer.fact).__name__} where the stage's fact is a {wanted.__name__}"]
    elif wanted is not None and stage.silence_denies and answer.effect is Effect.ALLOW:
        return [f"it allowed without a {wanted.__name__}, which later stages read"]
    return []


def _wrong_replacement(stage: Stage, answer: Decision) -> list[str]:
    if answer.replacement is UNSET or stage.kind is Kind.OUTPUT or stage.number <= SENSITIVE_DATA.number:
        return []
    return [f"it replaced the input, which no stage after {SENSITIVE_DATA.name} may"]


def _wrong_obligations(answer: Decision) -> list[str]:
    wrong = [shown(duty) for duty in answer.obligations if not isinstance(duty, Obligation) or not duty.name]
    return [f"its obligations {wrong} are not named Obligations"] if wrong else []
