"""What a record must keep beside the step itself, so that the same question can be put to another bundle.

Arguments, input, output, metadata, principal, risk and labels are in the record already, redacted, and so is an
approval's id. The rest of the decision document goes into the decision's evidence, which is redacted and erased with
the step. The time is kept as the distance from the step's start: a long number could be taken for a card's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "asked"
"""The evidence's key."""

_VERSION = 2
WITHOUT_DUTIES = 1
"""The version with which evidence that names no obligations does not say that the decision carried none."""
_NO_ESTIMATE = {"micro_usd": None, "tokens": 0}
_NOTHING_DECLARED = {"risk": None, "idempotent": None}


def asked_of(document: Mapping[str, Any], started_us: int) -> dict[str, Any]:
    """Return what the record of a step lacks of a decision document; what is usual is left out."""
    kept: dict[str, Any] = {"v": _VERSION, "after_us": document["time_us"] - started_us}
    attempt = document["step"]["attempt"]
    if attempt != 1:
        kept["attempt"] = attempt
    if document["estimate"] != _NO_ESTIMATE:
        kept["estimate"] = document["estimate"]
    if document["declared"] != _NOTHING_DECLARED:
        kept["declared"] = document["declared"]
    if document["approval"] is not None:
        kept["approval"] = {name: document["approval"][name] for name in ("approver", "approved")}
    for name in ("findings", "obligations", "stream"):
        value = document.get(name)
        if value:
            kept[name] = value
    return kept


def document_of(step: Mapping[str, Any], stage: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decision document of a recorded step, as the ledger's readers give it, at a stage.

    ``asked`` is what ``asked_of`` kept. KeyError or TypeError where it was made by another version.
    """
    if asked["v"] not in (_VERSION, WITHOUT_DUTIES):
        raise KeyError(asked["v"])
    is_tool = step["tool"] is not None
    principal = step["principal"]
    document: dict[str, Any] = {
        "version": 1,
        "stage": stage,
        "time_us": step["started_us"] + asked["after_us"],
        "principal": None if principal is None else {name: principal[name] for name in _PRINCIPAL},
        "tenant": step["tenant_id"] or None,
        "run": {"run_id": step["run_id"]},
        "step": {"step_id": step["step_id"], "attempt": asked.get("attempt", 1)},
        "node": {"id": step["node_id"], "kind": step["node_kind"]},
        "action": step["action"],
        "tool": step["tool"],
        "arguments": step["input_task"] if is_tool else None,
        "input": None if is_tool else step["input_task"],
        "estimate": asked.get("estimate", _NO_ESTIMATE),
        "declared": asked.get("declared", _NOTHING_DECLARED),
        "metadata": step["metadata"] or {},
        "approval": {"id": step["approval_id"], **asked["approval"]} if "approval" in asked else None,
    }
    if stage in ("tool_permission", "output_guardrails"):
        document["risk"] = step["risk"]
        labels = step["labels"]
        document["labels"] = labels if labels["origin"] is not None else None
        document["findings"] = asked.get("findings", [])
        document["obligations"] = asked.get("obligations", [])
    if stage == "output_guardrails":
        document["output"] = step["output_content"]
        document["stream"] = asked.get("stream")
    return document


_PRINCIPAL = ("subject", "agent_id", "issuer", "verified", "roles", "tenant")
