"""``meshflow policy explain``: a decision in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.cli.options import Chosen
from meshflow.cli.output import line, print_json, say
from meshflow.cli.policy_ask import decision_document
from meshflow.cli.policy_bundle import chosen_bundle, document_from, entry_of

if TYPE_CHECKING:
    from meshflow.policy.tools.explain import Condition, Told, Trace

_SHOWN = 80


def explain_policy(
    options: Chosen, path: Path | None, data: Path | None, stage: str, given: str | None, *, all_rules: bool
) -> None:
    """Print which rules and values decided."""
    from meshflow.policy import decision_from
    from meshflow.policy.tools.explain import explain_decision

    told = explain_decision(chosen_bundle(options, path, data), entry_of(stage), document_from(given, stage))
    decision = decision_from(told.answer, f"{stage}.", {})
    if options.as_json:
        print_json(
            {**decision_document(decision), "entry_point": told.entry.rule, "rules": list(map(_row, told.traces))}
        )
        return
    say(f"{decision.effect.value}{': ' + decision.code if decision.code else ''}")
    if decision.reason:
        say(decision.reason)
    say(*in_words(told, all_rules=all_rules))


def _row(trace: Trace) -> dict[str, Any]:
    return {
        "rule": trace.rule,
        "where": trace.where,
        "held": trace.held,
        "decides": trace.decides,
        "values": list(trace.values),
        "problem": trace.problem,
        "conditions": [
            {"text": one.text, "line": one.line, "held": one.held, "values": dict(one.values)}
            for one in trace.conditions
        ],
    }


def in_words(told: Told, *, all_rules: bool) -> Iterator[str]:
    """Yield lines: first the rules that gave a reason, then, if asked for, all others."""
    deciding = [trace for trace in told.traces if trace.decides]
    for trace in deciding:
        yield from _held(trace)
    if not deciding and not all_rules:
        yield ""
        yield "No rule gave a reason; --all shows every rule that was looked at."
    if all_rules:
        for trace in told.traces:
            if not trace.decides:
                yield from _held(trace) if trace.held else _stopped(trace)


def _held(trace: Trace) -> Iterator[str]:
    yield ""
    said = " and ".join(_short(value) for value in trace.values)
    yield f"{line(trace.where)}  {line(trace.rule)} says {said}" + (", because" if trace.conditions else ", always")
    for condition in trace.conditions:
        yield from _condition(condition)


def _stopped(trace: Trace) -> Iterator[str]:
    yield ""
    at = trace.stopped_at
    yield f"{line(trace.where)}  {line(trace.rule)} does not hold" + (f", stopped on line {at.line}" if at else "")
    for condition in trace.conditions:
        yield from _condition(condition)
    if trace.problem:
        yield f"    {line(trace.problem)}"


def _condition(condition: Condition) -> Iterator[str]:
    mark = "yes" if condition.held else "no "
    yield f"    {mark} {line(condition.text)}{_where(condition.values)}"


def _where(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    return "   where " + ", ".join(f"{name} is {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    if value is None:
        return "undefined or null"
    if isinstance(value, Mapping) and isinstance(value.get("code"), str):
        return line(value["code"])
    text = line(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
