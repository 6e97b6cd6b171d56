"""Ask the embedded engine one question; every way in which it can fail is a failure with its cause."""

from __future__ import annotations

import orjson

from meshflow.policy.answer import parse_answer
from meshflow.policy.compile import describe
from meshflow.policy.embedded import Engine, EngineCrashError
from meshflow.policy.engine import PolicyAnswer, PolicyFailure

UNDEFINED = '"<undefined>"'
"""How the engine shows that a rule has no value."""

_CONFLICTS = ("rule conflicts", "rules must not produce", "functions must not produce", "value for key")


def evaluate_rule(engine: Engine, rule: str, document: str) -> PolicyAnswer | PolicyFailure:
    """Return what a rule says of a document. An engine that crashed over it must not be asked again."""
    try:
        engine.set_input_json(document)
        raw = engine.eval_rule_as_json(rule)
    except RuntimeError as error:
        return failure_of(error)
    if raw == UNDEFINED:
        return PolicyFailure("undefined", f"{rule} is undefined for this step; give it a default")
    return parse_answer(orjson.loads(raw))


def crashed(answer: PolicyAnswer | PolicyFailure) -> bool:
    """Return whether the engine that answered must be replaced."""
    return isinstance(answer, PolicyFailure) and answer.cause == "engine_crashed"


def failure_of(error: RuntimeError) -> PolicyFailure:
    """Return what an error of the embedded engine means for a step; nothing of the step's data is quoted."""
    if isinstance(error, EngineCrashError):
        return PolicyFailure("engine_crashed", "the policy engine crashed while it evaluated this step")
    where, message = describe(error)
    at = f" at {where}" if where else ""
    if message.startswith(_CONFLICTS):
        return PolicyFailure("conflict", f"two rules give different answers{at}")
    if "could not find function" in message:
        return PolicyFailure("builtin_missing", f"a rule calls a function that the engine lacks{at}")
    return PolicyFailure("engine_error", f"the policy engine failed to evaluate a rule{at}")
