"""What OPA's evaluator says when it fails, in the words of the contract; nothing of a step's data is quoted."""

from __future__ import annotations

import re

from meshflow.policy.engine import PolicyFailure

_PLACE = re.compile(
    r"(?:^|\s)(?P<file>[^\s:]+\.rego):(?P<line>\d+): (?:(?P<code>rego_\w+|eval_\w+): )?(?P<message>[^\n]*)"
)
_CONFLICT = "eval_conflict_error"


def failure_of(text: str, place: str = "") -> PolicyFailure:
    """Return the failure that an evaluator's error text means; ``place`` is ``file:line`` where it came apart."""
    found = _PLACE.search(text)
    where = place or (f"{found['file']}:{found['line']}" if found is not None else "")
    at = f" at {where}" if where else ""
    if _CONFLICT in text or "multiple outputs" in text:
        return PolicyFailure("conflict", f"two rules give different answers{at}")
    if "undefined function" in text:
        return PolicyFailure("builtin_missing", f"a rule calls a function that the engine lacks{at}")
    return PolicyFailure("engine_error", f"the policy engine failed to evaluate a rule{at}")


def first_problem(text: str) -> tuple[str, str]:
    """Return ``file:line`` and message of the first problem that a compiler's text names; for those who load it."""
    found = _PLACE.search(text)
    if found is None:
        return "", text.strip().splitlines()[0] if text.strip() else "refused without a reason"
    return f"{found['file']}:{found['line']}", found["message"]
