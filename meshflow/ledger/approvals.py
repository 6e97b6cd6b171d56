"""A person's answers: which steps wait, deciding them, and finding the decision again."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from meshflow.clock import Clock
from meshflow.errors import LedgerConflictError, LedgerError
from meshflow.ledger.format.canonical import payload_bytes, payload_value
from meshflow.ledger.format.entry import VERSION, StoredEntry, principal_from, seal
from meshflow.ledger.format.steps import step_dict, timestamp
from meshflow.ledger.store import LedgerStore
from meshflow.step import Approval


class ApprovalRefusedError(LedgerError):
    """A decision that may not be made.

    ``cause`` is ``unknown``, ``decided``, ``expired``, ``self_approval``, ``no_principal`` or ``approver``.
    """

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


async def pending(store: LedgerStore, clock: Clock, tenant: str | None) -> list[dict[str, Any]]:
    """Return what waits for a person, the oldest first; an expired request is marked, and cannot be decided."""
    now_us = clock.now_us()
    return [_pending_dict(entry, now_us) for entry in await store.escalations(None, tenant)]


def _pending_dict(entry: StoredEntry, now_us: int) -> dict[str, Any]:
    step = step_dict(entry)
    request = step["approval_request"]
    kept = (
        "run_id", "step_id", "attempt", "node_id", "node_kind", "tool", "action", "tenant_id", "risk",
        "labels", "reason", "input_task", "output_content", "principal", "fingerprint",
    )  # fmt: skip
    return {name: step[name] for name in kept} | {
        "approval_id": request["approval_id"],
        "codes": request["codes"],
        "holds_output": request["holds_output"],
        "arguments_digest": request["arguments_digest"],
        "requested_at": step["timestamp"],
        "expires_at": timestamp(request["expires_at_us"]),
        "expires_at_us": request["expires_at_us"],
        "expired": request["expires_at_us"] <= now_us,
    }


async def decide(
    store: LedgerStore, clock: Clock, tenant: str | None, approval_id: str, approve: bool, approver: str, reason: str
) -> dict[str, Any]:
    """Append the decision; ApprovalRefusedError where there is nothing to decide, or not by this person or any more."""
    if not isinstance(approver, str) or not approver.strip():
        raise ApprovalRefusedError("approver", "a decision needs the name of who decides")
    entry = await _request(store, approval_id, tenant)
    step, now_us = step_dict(entry), clock.now_us()
    if await store.decision(approval_id) is not None:
        raise _decided(approval_id)
    expires = step["approval_request"]["expires_at_us"]
    if expires <= now_us:
        raise ApprovalRefusedError("expired", f"approval {approval_id!r} expired at {timestamp(expires)}; run it again")
    _refuse_self(step["principal"], approver, approval_id)
    fields = {
        "v": VERSION, "kind": "approval", "run_id": entry.run_id, "step_id": step["step_id"],
        "attempt": step["attempt"], "tenant_id": step["tenant_id"], "node_id": step["node_id"],
        "approval_id": approval_id, "approved": bool(approve), "started_us": now_us,
        "arguments_digest": step["approval_request"]["arguments_digest"],
    }  # fmt: skip
    contents = {"approver": approver} | ({"reason": reason} if reason else {})
    try:
        written = await store.append(seal(fields, {name: payload_bytes(value) for name, value in contents.items()}))
    except LedgerConflictError:
        # Somebody else decided between our look and our entry; the key of the entry lets only one in.
        if await store.decision(approval_id) is not None:
            raise _decided(approval_id) from None
        raise
    return {
        "approval_id": approval_id, "run_id": entry.run_id, "step_id": step["step_id"], "approved": bool(approve),
        "approver": approver, "reason": reason, "decided_at": timestamp(now_us), "seq": written.seq,
        "entry_hash": written.entry_hash,
    }  # fmt: skip


async def _request(store: LedgerStore, approval_id: str, tenant: str | None) -> StoredEntry:
    found = await store.escalations(approval_id, tenant)
    if not found:
        raise ApprovalRefusedError("unknown", f"the ledger has no step that waits for approval {approval_id!r}")
    return _intact(found[-1])


def _intact(entry: StoredEntry) -> StoredEntry:
    """Refuse to build a decision on an entry that was altered."""
    if not entry.intact():
        raise LedgerError(f"entry {entry.seq} of run {entry.run_id!r} does not match its hashes; verify the run")
    return entry


def _decided(approval_id: str) -> ApprovalRefusedError:
    return ApprovalRefusedError("decided", f"approval {approval_id!r} has been decided already")


def _refuse_self(principal: Mapping[str, Any] | None, approver: str, approval_id: str) -> None:
    if principal is None:
        raise ApprovalRefusedError("no_principal", f"approval {approval_id!r}: who asked is not on record any more")
    if _folded(approver) in {_folded(principal["subject"]), _folded(principal["agent_id"])}:
        raise ApprovalRefusedError(
            "self_approval", f"approval {approval_id!r}: {approver!r} asked, and may not approve"
        )


def _folded(name: str) -> str:
    """Return a name as two spellings of one person share it."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


async def find(store: LedgerStore, run_id: str, step_id: str, tenant: str | None) -> Approval | None:
    """Return the latest decision on a step, bound to what was asked; None without one, or with nothing to bind to."""
    decision = await store.last_of(run_id, step_id, "approval")
    if decision is None:
        return None
    answer = step_dict(_intact(decision))
    approver = _payload(decision, "approver")
    if not approver or not await store.escalations(answer["approval_id"], tenant):
        return None  # erased: nobody stands for the decision any more, or the run that asked is deleted
    entry = await _request(store, answer["approval_id"], tenant)
    step = step_dict(entry)
    request, principal = step["approval_request"], step["principal"]
    salt = entry.payloads.get("request_salt")
    if principal is None or salt is None or (entry.run_id, step["step_id"]) != (run_id, step_id):
        return None
    return Approval(
        approval_id=answer["approval_id"],
        run_id=run_id,
        step_id=step_id,
        approved=answer["approved"],
        approver=approver,
        arguments_digest=request["arguments_digest"],
        salt=_payload(entry, "request_salt"),
        fingerprint=step["fingerprint"],
        expires_at_us=request["expires_at_us"],
        principal=principal_from(principal),
        reason=answer["reason"],
        attempt=await _last_attempt(store, run_id, step_id),
        used=await _used(store, run_id, answer["approval_id"], tenant),
        holds_output=request["holds_output"],
        held_output=step["output_content"] if request["holds_output"] else None,
    )


async def _last_attempt(store: LedgerStore, run_id: str, step_id: str) -> int:
    found = [await store.last_of(run_id, step_id, kind) for kind in ("step", "intent")]
    return max(int(step_dict(entry)["attempt"]) for entry in found if entry is not None)


async def _used(store: LedgerStore, run_id: str, approval_id: str, tenant: str | None) -> bool:
    """Return whether a step has begun, or ended, on the strength of an approval."""
    async for entry in store.entries(run_id, "intent", tenant):
        if step_dict(entry)["approval_id"] == approval_id:
            return True
    async for entry in store.entries(run_id, "step", tenant):
        step = step_dict(entry)
        if step["approval_id"] == approval_id and step["verdict"] in ("commit", "error"):
            return True
    return False


def _payload(entry: StoredEntry, name: str) -> str:
    stored = entry.payloads.get(name)
    return str(payload_value(stored[1])) if stored is not None else ""
