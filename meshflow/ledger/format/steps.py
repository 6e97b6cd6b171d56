"""Steps as dicts: what readers get, and what ``write`` accepts in place of a StepRecord."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from meshflow.errors import EncodingError
from meshflow.facts import Principal, TaintLabels
from meshflow.ledger.format.entry import StoredEntry, principal_from
from meshflow.ledger.format.payload import payload_value
from meshflow.record import StepRecord, Verdict
from meshflow.step import to_micro_usd

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OWN = frozenset(field.name for field in fields(StepRecord)) - {"results", "approval_request"}
_RENAMED = {
    "input_task": "input",
    "output_content": "output",
    "block_reason": "reason",
    "tokens_used": "tokens",
}
_CONVERTED = frozenset({"cost_usd", "uncertainty", "carbon_gco2", "duration_ms", "timestamp", "blocked"})
_PLACE = frozenset({"prev_hash", "entry_hash"})


def step_dict(entry: StoredEntry) -> dict[str, Any]:
    """Return an entry as the dict that the API promises of a step; erased fields are None and named.

    An approval, or a vote for one, has its ``approver`` too, a tombstone in ``erased_of`` the fields that it names, by
    seq.
    """
    body = orjson.loads(entry.body)
    payloads = {name: payload_value(data) for name, (_, data) in entry.payloads.items()}
    erased = sorted(set(body["commitments"]) - set(payloads))
    verdict = body.get("verdict")
    blocked = verdict is not None and verdict != Verdict.COMMIT.value
    reason = payloads.get("reason", body.get("reason", ""))
    own: dict[str, Any] = {}
    if body.get("kind") in ("approval", "vote"):
        own["approver"] = payloads.get("approver")
    elif body.get("kind") == "erasure":
        own["erased_of"] = body.get("erased", {})
    return {
        **own,
        **{name: value for name, value in body.items() if name not in {"v", "commitments", "stages", "unsafe"}},
        "seq": entry.seq,
        "step_index": entry.step_index,
        "input_task": payloads.get("input"),
        "output_content": payloads.get("output"),
        "blocked": blocked,
        "reason": reason,
        "block_reason": (reason or body.get("code", "")) if blocked else "",
        "uncertainty": _scaled(body.get("uncertainty_ppm"), 1_000_000),
        "cost_usd": body.get("cost_micro_usd", 0) / 1_000_000,
        "tokens_used": body.get("tokens", 0),
        "carbon_gco2": _scaled(body.get("carbon_mg_co2"), 1_000),
        "duration_ms": body.get("duration_ns", 0) / 1_000_000,
        "timestamp": timestamp(body.get("started_us", 0)),
        "prev_hash": entry.prev_hash.hex(),
        "entry_hash": entry.entry_hash.hex(),
        "metadata": payloads.get("metadata", {}),
        "labels": {"origin": body.get("origin"), "confidentiality": body.get("confidentiality")},
        "principal": payloads.get("principal"),
        "stages": _stages(body.get("stages", ()), payloads.get("results", {})),
        "unsafe": body.get("unsafe", []),
        "erased": erased,
    }


def _stages(results: list[list[Any]], texts: Mapping[str, Any]) -> list[dict[str, Any]]:
    nothing: dict[str, Any] = {}
    stages: list[dict[str, Any]] = [
        {
            "stage": stage, "plugin": plugin, "effect": effect, "code": code, "enforced": enforced,
            "elapsed_ns": elapsed_ns, "replaced": replaced, "reason": "", "evidence": nothing,
        }
        for stage, plugin, effect, code, enforced, elapsed_ns, replaced in results
    ]  # fmt: skip
    for place, text in texts.items():
        if int(place) < len(stages):
            stages[int(place)].update(text)
    return stages


def _scaled(value: int | None, unit: int) -> float | None:
    return None if value is None else value / unit


def timestamp(micros: int) -> str:
    """Return microseconds since the epoch in the form of RFC 3339, UTC."""
    try:
        moment = _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return f"{micros}us"
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def record_from(step: Mapping[str, Any]) -> tuple[StepRecord, str, str]:
    """Return the record that a dict describes, with the ``prev_hash`` and ``entry_hash`` that its writer believes.

    Takes the names that ``get_run`` returns for input, and the names of StepRecord. EncodingError names a wrong one.
    """
    values: dict[str, Any] = {}
    for name, value in step.items():
        if name in _OWN:
            values[name] = value
        elif name in _RENAMED:
            values[_RENAMED[name]] = value
        elif name not in _CONVERTED and name not in _PLACE:
            raise EncodingError("not a field of a step that can be written", path=str(name))
    for name in ("run_id", "node_id"):
        if not values.get(name):
            raise EncodingError("a step needs one, a non-empty string", path=name)
    values |= _converted(step)
    values["verdict"] = _verdict(step, values.get("verdict"))
    if values.get("metadata") is None:
        values.pop("metadata", None)
    values["principal"] = _principal(values.get("principal"))
    values["unsafe"] = tuple(values.get("unsafe", ()))
    values["reason"] = values.get("reason") or ""
    return StepRecord(**values), step.get("prev_hash") or "", step.get("entry_hash") or ""


def _converted(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what other units say, in ours."""
    values: dict[str, Any] = {}
    if step.get("cost_usd") is not None:
        try:
            values["cost_micro_usd"] = to_micro_usd(step["cost_usd"])
        except ValueError as error:
            raise EncodingError(str(error), path="cost_usd") from None
    for name, target, unit in (
        ("uncertainty", "uncertainty_ppm", 1_000_000),
        ("carbon_gco2", "carbon_mg_co2", 1_000),
        ("duration_ms", "duration_ns", 1_000_000),
    ):
        if step.get(name) is not None:
            values[target] = _units(step[name], unit, name)
    if step.get("timestamp") is not None:
        values["started_us"] = moment_us(step["timestamp"])
    return values


def _units(value: Any, unit: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise EncodingError("not a number", path=name)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise EncodingError("not a number", path=name) from None
    if not number.is_finite() or number < 0 or number > 2**53 // unit:
        raise EncodingError("not a finite number, not negative and within 2^53 of the ledger's unit", path=name)
    return int((number * unit).to_integral_value())


def moment_us(value: Any, path: str = "timestamp") -> int:
    """Return microseconds since the epoch of an RFC 3339 text, a datetime with a zone, or seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _units(value, 1_000_000, path)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise EncodingError("not an RFC 3339 time", path=path) from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise EncodingError("a time with a zone is needed, in RFC 3339 or as seconds", path=path)
    return (value - _EPOCH) // timedelta(microseconds=1)


def _verdict(step: Mapping[str, Any], given: Any) -> Verdict:
    blocked = step.get("blocked")
    if given is None:
        return Verdict.REJECT if blocked else Verdict.COMMIT
    try:
        verdict = Verdict(given)
    except ValueError:
        raise EncodingError(f"unknown; choose one of {[v.value for v in Verdict]}", path="verdict") from None
    if blocked is not None and bool(blocked) is not (verdict is not Verdict.COMMIT):
        raise EncodingError(f"contradicts the verdict {verdict.value}", path="blocked")
    return verdict


def _principal(value: Any) -> Principal | None:
    if value is None or isinstance(value, Principal):
        return value
    try:
        return principal_from({"roles": (), "claims": {}, **value})
    except TypeError:
        raise EncodingError("not the dict of a principal", path="principal") from None


def completed(record: StepRecord, *, step_id: str, started_us: int) -> StepRecord:
    """Return the record with the id and the time that it lacked."""
    if record.step_id and record.started_us:
        return record
    return replace(record, step_id=record.step_id or step_id, started_us=record.started_us or started_us)


def labels_on_record(step: Mapping[str, Any]) -> TaintLabels | None:
    """Return the labels that the stages found a step to read; None where the record has none."""
    origin, confidentiality = step["origin"], step["confidentiality"]
    if origin is None or confidentiality is None:
        return None
    return TaintLabels.named(origin, confidentiality)
