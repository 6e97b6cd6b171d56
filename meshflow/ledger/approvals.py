"""A person's answers: which steps wait, deciding them, and finding the decision again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshflow.clock import Clock
from meshflow.digest import arguments_digest
from meshflow.errors import LedgerConflictError, LedgerError
from meshflow.ledger.format.entry import VERSION, StoredEntry, Written, principal_from, seal
from meshflow.ledger.format.payload import payload_bytes, payload_value
from meshflow.ledger.format.steps import labels_on_record, step_dict, timestamp
from meshflow.ledger.store import LedgerStore
from meshflow.names import folded_name, names_of
from meshflow.step import Approval

_LONGEST_NAME = 320
AS_ASKED: Any = object()
"""Stands for the arguments that were asked about."""


class ApprovalRefusedError(LedgerError):
    """A decision that may not be made.

    ``cause`` is ``unknown``, ``decided``, ``expired``, ``self_approval``, ``no_principal``, ``answer``, ``approver``,
    ``voted``, ``raced`` or ``edit``.
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
        "required": request.get("required", 1),
        "expired": request["expires_at_us"] <= now_us,
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person says to a request; ``edited`` is the input to run with instead, where ``edits`` is True."""

    approve: bool
    approver: str
    reason: str = ""
    edits: bool = False
    edited: Any = None


async def decide(
    store: LedgerStore, clock: Clock, tenant: str | None, approval_id: str, answer: Answer
) -> dict[str, Any]:
    """Append the decision, or one approval of several that are needed; a denial decides alone.

    ApprovalRefusedError where there is nothing to decide, or not by this person or any more.
    """
    _refuse_answer(answer)
    entry = await _request(store, approval_id, tenant)
    step, now_us = step_dict(entry), clock.now_us()
    if await store.decision(approval_id) is not None:
        raise _decided(approval_id)
    expires = step["approval_request"]["expires_at_us"]
    if expires <= now_us:
        raise ApprovalRefusedError("expired", f"approval {approval_id!r} expired at {timestamp(expires)}; run it again")
    _refuse_self(step["principal"], answer.approver, approval_id)
    digest = _digest(answer, step, entry)
    votes = await _votes(store, entry.run_id, approval_id)
    _refuse_vote(votes, answer, digest, approval_id)
    required = step["approval_request"].get("required", 1)
    fields = {
        "v": VERSION, "run_id": entry.run_id, "tenant_id": step["tenant_id"], "node_id": step["node_id"],
        "approval_id": approval_id, "approved": answer.approve, "started_us": now_us, "arguments_digest": digest,
        "edited": answer.edits,
    }  # fmt: skip
    decided = not answer.approve or len(votes) + 1 >= required
    append = _append_decision if decided else _append_vote
    written = await append(store, fields, step, answer, votes)
    return {
        "approval_id": approval_id, "run_id": entry.run_id, "step_id": step["step_id"], "approved": answer.approve,
        "approver": answer.approver, "reason": answer.reason, "decided_at": timestamp(now_us), "seq": written.seq,
        "entry_hash": written.entry_hash, "decided": decided, "approvals": len(votes) + answer.approve,
        "required": required,
    }  # fmt: skip


async def _append_decision(
    store: LedgerStore, fields: Mapping[str, Any], step: Mapping[str, Any], answer: Answer, votes: list[StoredEntry]
) -> Written:
    """Append the decision; the key of the entry lets one in, whoever else decides between our look and our entry."""
    body = {
        **fields, "kind": "approval", "step_id": step["step_id"], "attempt": step["attempt"],
        "votes": [vote.entry_hash.hex() for vote in votes],
    }  # fmt: skip
    try:
        return await store.append(seal(body, _contents(answer)))
    except LedgerConflictError:
        if await store.decision(fields["approval_id"]) is not None:
            raise _decided(fields["approval_id"]) from None
        raise


async def _append_vote(
    store: LedgerStore, fields: Mapping[str, Any], step: Mapping[str, Any], answer: Answer, votes: list[StoredEntry]
) -> Written:
    """Append one of several approvals; a concurrent one under the same place makes the caller try again."""
    approval_id = fields["approval_id"]
    body = {**fields, "kind": "vote", "step_id": f"{step['step_id']}/{approval_id}", "attempt": len(votes) + 1}
    try:
        return await store.append(seal(body, _contents(answer)))
    except LedgerConflictError:
        if len(await _votes(store, fields["run_id"], approval_id)) == len(votes):
            raise  # nobody else answered: the run takes no more entries
        raise ApprovalRefusedError("raced", f"somebody else answered {approval_id!r} just now; look again") from None


def _refuse_answer(answer: Answer) -> None:
    """Refuse what is no answer of a person with a name."""
    if not isinstance(answer.approve, bool):
        raise ApprovalRefusedError("answer", f"approve is True or False, not {answer.approve!r}")
    if not _is_name(answer.approver):
        raise ApprovalRefusedError(
            "approver", f"a decision needs the name of who decides, of at most {_LONGEST_NAME} characters"
        )


def _is_name(approver: object) -> bool:
    if not isinstance(approver, str) or len(approver) > _LONGEST_NAME or not folded_name(approver):
        return False
    return not any("\ud800" <= one <= "\udfff" for one in approver)  # half of a character, which no file keeps


def _contents(answer: Answer) -> dict[str, bytes]:
    contents: dict[str, Any] = {"approver": answer.approver}
    if answer.reason:
        contents["reason"] = answer.reason
    if answer.edits:
        contents["input"] = answer.edited
    return {name: payload_bytes(value) for name, value in contents.items()}


def _digest(answer: Answer, step: Mapping[str, Any], entry: StoredEntry) -> str:
    """Return the digest of what is approved: of the arguments asked about, or of those that took their place."""
    if not answer.edits:
        return str(step["approval_request"]["arguments_digest"])
    if not answer.approve or step["approval_request"]["holds_output"]:
        raise ApprovalRefusedError("edit", "only arguments that are approved, before the step runs, can be edited")
    salt = _payload(entry, "request_salt")
    digest = arguments_digest(answer.edited, salt)
    if payload_value(payload_bytes(answer.edited)) != answer.edited:
        raise ApprovalRefusedError("edit", "edited arguments are JSON values: they come back from the ledger as such")
    return digest


async def _votes(store: LedgerStore, run_id: str, approval_id: str) -> list[StoredEntry]:
    """Return the approvals so far of a request that needs several."""
    return [entry async for entry in store.entries(run_id, "vote") if step_dict(entry)["approval_id"] == approval_id]


def _refuse_vote(votes: list[StoredEntry], answer: Answer, digest: str, approval_id: str) -> None:
    if not answer.approve:
        return
    for vote in votes:
        if folded_name(_payload(_intact(vote), "approver")) == folded_name(answer.approver):
            raise ApprovalRefusedError("voted", f"{answer.approver!r} has approved {approval_id!r} already")
        if step_dict(vote)["arguments_digest"] != digest:
            raise ApprovalRefusedError(
                "edit", f"others have approved other arguments for {approval_id!r}; deny it instead"
            )


async def _request(store: LedgerStore, approval_id: str, tenant: str | None) -> StoredEntry:
    found = await store.escalations(approval_id, tenant)
    if not found:
        raise ApprovalRefusedError("unknown", f"the ledger has no step that waits for approval {approval_id!r}")
    if len(found) > 1:
        raise LedgerError(f"{len(found)} steps wait for approval {approval_id!r}, and it can be of one alone; verify")
    return _intact(found[0])


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
    if folded_name(approver) in names_of(principal["subject"], principal["agent_id"], principal["claims"]):
        raise ApprovalRefusedError(
            "self_approval", f"approval {approval_id!r}: {approver!r} asked, and may not approve"
        )


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
    votes = await _votes(store, run_id, answer["approval_id"]) if answer["approved"] else []
    if [vote.entry_hash.hex() for vote in votes] != answer.get("votes", []) and answer["approved"]:
        return None
    if principal is None or "request_salt" not in entry.payloads:
        return None
    if (entry.run_id, step["step_id"], step["attempt"]) != (run_id, step_id, answer["attempt"]):
        return None
    edit = await _edit(store, decision, entry)
    if edit is not None and "input" not in edit.payloads:
        return None  # erased: what was approved is not known any more
    return Approval(
        approval_id=answer["approval_id"],
        run_id=run_id,
        step_id=step_id,
        approved=answer["approved"],
        approver=approver,
        arguments_digest=answer["arguments_digest"],
        salt=_payload(entry, "request_salt"),
        fingerprint=step["fingerprint"],
        expires_at_us=request["expires_at_us"],
        principal=principal_from(principal),
        reason=answer["reason"],
        attempt=await _last_attempt(store, run_id, step_id),
        used=await _used(store, run_id, answer["approval_id"], tenant, of_output=request["holds_output"]),
        holds_output=request["holds_output"],
        held_output=step["output_content"] if request["holds_output"] else None,
        approvers=tuple(_payload(_intact(vote), "approver") for vote in votes),
        edited=edit is not None,
        edited_input=step_dict(edit)["input_task"] if edit is not None else None,
        tenant_id=step["tenant_id"],
        node_id=step["node_id"],
        node_kind=step["node_kind"],
        tool=step["tool"],
        action=step["action"],
        codes=tuple(request["codes"]),
        labels=labels_on_record(step),
    )


async def _edit(store: LedgerStore, decision: StoredEntry | None, request: StoredEntry) -> StoredEntry | None:
    """Return the decision whose edit the step runs with; None where it runs with what the caller hands in.

    What was asked about may itself be an edit: of a step that an earlier approval let run, and that waited again.
    """
    seen = set()
    while decision is not None:
        if step_dict(decision).get("edited"):
            return decision
        earlier = step_dict(request)["approval_id"]
        if earlier is None:
            return None
        if earlier in seen:
            raise LedgerError(f"what led to approval {earlier!r} leads back to it; verify the ledger")
        seen.add(earlier)
        decision = await store.decision(earlier)
        if decision is not None:
            _intact(decision)
            request = await _request(store, earlier, None)
    return None


async def _last_attempt(store: LedgerStore, run_id: str, step_id: str) -> int:
    found = [await store.last_of(run_id, step_id, kind) for kind in ("step", "intent")]
    return max(int(step_dict(entry)["attempt"]) for entry in found if entry is not None)


async def _used(store: LedgerStore, run_id: str, approval_id: str, tenant: str | None, *, of_output: bool) -> bool:
    """Return whether a step has begun, or ended, on the strength of an approval; of an output, whether it is out."""
    if not of_output:
        async for entry in store.entries(run_id, "intent", tenant):
            if step_dict(entry)["approval_id"] == approval_id:
                return True
    async for entry in store.entries(run_id, "step", tenant):
        step = step_dict(entry)
        if step["approval_id"] == approval_id and (step["executed"] or step["verdict"] in ("commit", "error")):
            return True
    return False


def _payload(entry: StoredEntry, name: str) -> str:
    stored = entry.payloads.get(name)
    return str(payload_value(stored[1])) if stored is not None else ""
