"""Redact all that a record keeps, by stage 8 itself, however early the step was denied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshflow.decision import UNSET, Decision, Effect
from meshflow.kernel.ask import ask
from meshflow.kernel.bind import Failure
from meshflow.kernel.compile import Pipeline
from meshflow.record import StageResult
from meshflow.step import Purpose, StepContext, StepState


class Redacted(NamedTuple):
    """The fields as they may be kept, and how: by the ``stage``, ``withheld``, or ``none`` with stage 8 disabled."""

    fields: Mapping[str, Any]
    how: str


async def redact(pipeline: Pipeline, state: StepState, fields: Mapping[str, Any]) -> Redacted:
    """Return the fields with sensitive data taken out. What cannot be scanned is withheld, never kept raw."""
    clean = unscanned(pipeline, fields)
    if clean is not None:
        return clean
    kept = fields
    for binding in pipeline.redactors:
        looking = state.look(Purpose.RECORD)
        looking.input = kept
        decision = await ask(binding, looking, StepContext(looking))
        if type(decision) is Failure:
            return _withheld(fields, decision.cause)
        if decision is None:
            continue
        if type(decision) is not Decision or decision.effect is Effect.DENY:
            return _withheld(fields, decision.code if type(decision) is Decision else "invalid_decision")
        if decision.replacement is not UNSET:
            replaced = decision.replacement
            if not isinstance(replaced, Mapping) or replaced.keys() != fields.keys():
                return _withheld(fields, "invalid_decision")
            kept = replaced
    return Redacted(kept, "stage")


def plain(output: Any) -> Any:
    """Return a dataclass or pydantic output as JSON values, since redaction looks into mappings, not into objects."""
    if type(output) in _JSON:
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return dataclasses.asdict(output)
    dump = getattr(type(output), "model_dump", None)
    return dump(output, mode="json") if callable(dump) else output


def unscanned(pipeline: Pipeline, fields: Mapping[str, Any]) -> Redacted | None:
    """Return fields that need no scan as they are: nothing scans, or there is no text. None for those that need one."""
    if not pipeline.redactors:
        return Redacted(fields, "none")
    return Redacted(fields, "stage") if _textless(fields) else None


_NO_TEXT = frozenset({type(None), bool, int, float})
_EMPTIABLE = frozenset({str, dict, list, tuple})
_JSON = _NO_TEXT | _EMPTIABLE


def _textless(fields: Mapping[str, Any]) -> bool:
    for value in fields.values():
        kind = type(value)
        if kind not in _NO_TEXT and (kind not in _EMPTIABLE or value):
            return False
    return True


def _withheld(fields: Mapping[str, Any], cause: str) -> Redacted:
    return Redacted({name: _placeholder(value, cause) for name, value in fields.items()}, "withheld")


def _placeholder(value: Any, cause: str) -> Any:
    if _textless({"": value}):
        return value
    return {"meshflow:withheld": {"type": type(value).__name__, "cause": cause}}


def recorded_words(results: list[StageResult]) -> list[Any]:
    """Return the free text of stage results, as it goes into redaction."""
    return [[result.reason, dict(result.evidence)] for result in results if result.reason or result.evidence]


def with_recorded_words(results: list[StageResult], words: Any) -> tuple[StageResult, ...]:
    """Return the results with their free text as redaction left it; without it where it was withheld."""
    if words == []:
        return tuple(results)
    if not isinstance(words, (list, tuple)):
        return tuple(result._replace(reason="", evidence={}) for result in results)
    remaining = iter(words)
    return tuple(_worded(result, next(remaining)) if result.reason or result.evidence else result for result in results)


def _worded(result: StageResult, words: Any) -> StageResult:
    reason, evidence = words
    return result._replace(reason=reason, evidence=evidence)
