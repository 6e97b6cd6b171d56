"""Turn a step into a Cedar request. Everything in it is data: nothing a caller writes becomes Cedar syntax."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from meshflow.plugin import Principal, StepContext

MAX_DEPTH = 32
LARGEST = 2**63 - 1
LARGEST_DECIMAL = 10**14
PLACES = Decimal("0.0001")


class Unsupported(ValueError):
    """A value has no Cedar form; the message names its place, never its text."""


def request_for(context: StepContext, principal: Principal) -> dict[str, Any]:
    """Return the Cedar request of a step, ids as structures so that no id needs quoting."""
    step = context.step
    about: dict[str, Any] = {
        "kind": step.kind,
        "tenant": context.tenant_id or "",
        "agent": principal.agent_id,
        "verified": principal.verified,
        "node": step.node_id,
    }
    if step.tool is not None:
        about["arguments"] = cedar_value(context.input, "arguments")
    return {
        "principal": {"type": "User", "id": principal.subject},
        "action": {"type": "Action", "id": step.action or step.tool or step.kind},
        "resource": {"type": "Tool", "id": step.tool} if step.tool else {"type": "Node", "id": step.node_id},
        "context": about,
    }


def user_entity(principal: Principal) -> dict[str, Any]:
    """Return the entity of a user whom the entities file does not list: a member of the roles of the credential."""
    parents = [{"type": "Role", "id": role} for role in principal.roles]
    return {"uid": {"type": "User", "id": principal.subject}, "attrs": {}, "parents": parents}


def cedar_value(value: Any, place: str, depth: int = 0) -> Any:
    """Return a JSON value as Cedar takes it; raise Unsupported for one that it does not."""
    if depth > MAX_DEPTH:
        raise Unsupported(f"{place} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        value.encode()  # a lone surrogate ends here, and not in the middle of Cedar
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise Unsupported(f"{place} is beyond 64 bits")
        return value
    if isinstance(value, float | Decimal):
        return _decimal(value, place)
    if isinstance(value, dict):
        return {
            _key(key, place): cedar_value(item, place, depth + 1) for key, item in value.items() if item is not None
        }
    if isinstance(value, list | tuple):
        return [cedar_value(item, place, depth + 1) for item in value if item is not None]
    raise Unsupported(f"{place} holds a {type(value).__name__}")


def _key(key: object, place: str) -> str:
    # Cedar reads {"__extn": ...} and {"__entity": ...} as more than data.
    if not isinstance(key, str) or key.startswith("__"):
        raise Unsupported(f"{place} has a key that is no text, or begins with two underscores")
    return key


def _decimal(value: float | Decimal, place: str) -> dict[str, Any]:
    exact = Decimal(str(value))
    if not exact.is_finite() or abs(exact) > LARGEST_DECIMAL:
        raise Unsupported(f"{place} holds a number that Cedar's decimal does not")
    if exact != exact.quantize(PLACES):
        raise Unsupported(f"{place} holds a number with more than four decimals")
    return {"__extn": {"fn": "decimal", "arg": f"{exact.quantize(PLACES):f}"}}
