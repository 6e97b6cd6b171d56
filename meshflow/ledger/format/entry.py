"""From a record to an entry: an immutable body without personal data, and erasable payloads under commitments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from operator import itemgetter
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

import orjson

from meshflow.decision import Effect
from meshflow.errors import EncodingError
from meshflow.facts import Principal
from meshflow.ledger.format.canonical import canonical_bytes, type_name
from meshflow.ledger.format.chain import commitment, entry_hash
from meshflow.ledger.format.payload import payload_bytes
from meshflow.ledger.format.salts import Salts
from meshflow.record import StageResult, StepRecord, Verdict

VERSION = 1
KINDS = ("intent", "step", "approval", "vote", "erasure", "close", "fork", "retention", "control")
UNBOUND = frozenset({"erasure", "retention"})
"""What may follow the close of a run."""

# The order is part of the store's format: a payload's row number is its entry's times 16 plus the field's place here.
FIELDS = ("input", "output", "metadata", "reason", "results", "principal", "request_salt", "approver")
FIELD_NUMBER: Mapping[str, int] = MappingProxyType({name: number for number, name in enumerate(FIELDS)})

COLUMNS = (
    "kind", "step_id", "attempt", "tenant_id", "node_id", "verdict", "code", "cost_micro_usd", "tokens", "started_us",
    "duration_ns", "approval_id",
)  # fmt: skip
"""What a store keeps beside the body to query by; each is derived from the body and verified against it."""

_PLAIN_COLUMNS = itemgetter(*COLUMNS[:-1])

_TEXT, _TEXT_OR_NONE, _WHOLE = (str,), (str, NoneType), (int,)
_COLUMN_TYPES: tuple[tuple[type, ...], ...] = (
    _TEXT, _TEXT, _WHOLE, _TEXT, _TEXT_OR_NONE, _TEXT_OR_NONE, _TEXT_OR_NONE, _WHOLE, _WHOLE, _WHOLE, _WHOLE,
    _TEXT_OR_NONE,
)  # fmt: skip
_COLUMN_SHAPES = frozenset(product(*_COLUMN_TYPES))
_MAX_PAYLOAD = 500_000_000
_VERDICTS = {verdict.value: verdict for verdict in Verdict}


class Written(NamedTuple):
    """An entry that is durable: its place in the run and its hash, in hexadecimal."""

    run_id: str
    seq: int
    step_id: str
    entry_hash: str
    step_index: int | None = None
    """A step's place among the steps of its run."""
    position: int = -1
    """The entry's place in the ledger, from 0: its leaf in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """That a step is about to run. ``input`` has been redacted; it is kept as an erasable payload."""

    run_id: str
    step_id: str
    node_id: str
    attempt: int = 1
    node_kind: str = "function"
    tool: str | None = None
    action: str | None = None
    tenant_id: str = "default"
    principal: Principal | None = None
    input: Any = None
    risk: str | None = None
    origin: str | None = None
    confidentiality: str | None = None
    started_us: int = 0
    fingerprint: str = ""
    approval_id: str | None = None


@dataclass(slots=True)
class Draft:
    """An entry before the store gives it a place: all but seq and prev_hash.

    ``tool`` and ``intended`` repeat what the body of a step says, ``size`` is about how many bytes the store will
    write. ``expect_prev`` and ``expect_hash`` are what the caller believes; a store refuses when either is wrong.
    """

    run_id: str
    body: bytes
    columns: tuple[Any, ...]
    payloads: tuple[tuple[str, bytes, bytes], ...]
    size: int
    tool: str | None = None
    intended: bool = True
    expect_prev: bytes | None = None
    expect_hash: bytes | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """Return what is unique in the run: step, attempt, kind."""
        return self.columns[1], self.columns[2], self.columns[0]

    @property
    def fields(self) -> dict[str, Any]:
        """Return the body without its commitments: what is the same when an entry is written twice under other salts.

        Read from the bytes when it is asked for, which is seldom. A batch that waits holds bytes, and no documents for
        the garbage collector to walk through.
        """
        document: dict[str, Any] = orjson.loads(self.body)
        del document["commitments"]
        return document


def seal(
    fields: dict[str, Any], payloads: Mapping[str, bytes], salts: Salts | None = None, *, plain: bool = False
) -> Draft:
    """Commit to the payloads under fresh salts and encode the body; EncodingError names what has no canonical form.

    ``plain`` says that the types in ``fields`` have been checked, as ``is_plain`` does.
    """
    take = (salts or Salts()).take
    salted = tuple([(name, take(), data) for name, data in payloads.items()])
    size = 0
    for name, _, data in salted:
        size += (length := len(data))
        if length > _MAX_PAYLOAD:
            raise EncodingError(f"{length} bytes; a payload has at most {_MAX_PAYLOAD}", path=name)
    columns = columns_of(fields)
    if tuple(map(type, columns)) not in _COLUMN_SHAPES:
        _refuse_columns(columns)
    run_id = fields["run_id"]
    if type(run_id) is not str or not run_id:
        raise EncodingError("a run id is a non-empty string", path="run_id")
    body = body_of(fields, salted, plain=plain)
    tool, intended = fields.get("tool"), fields.get("intended", True)
    return Draft(run_id, body, columns, salted, size + len(body), tool if type(tool) is str else None, bool(intended))


def _refuse_columns(columns: tuple[Any, ...]) -> None:
    for name, value, kinds in zip(COLUMNS, columns, _COLUMN_TYPES, strict=True):
        if type(value) not in kinds:
            raise EncodingError(f"a value of type {type_name(value)} where {kinds[0].__name__} belongs", path=name)


def body_of(fields: dict[str, Any], salted: tuple[tuple[str, bytes, bytes], ...], *, plain: bool = False) -> bytes:
    """Return the body's canonical bytes with the commitments in place."""
    commitments = {name: commitment(salt, data) for name, salt, data in salted}
    return canonical_bytes({**fields, "commitments": commitments}, plain=plain)


def columns_of(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the query columns that belong to a body, in the order of COLUMNS."""
    get = body.get
    request = get("approval_request")
    approval_id = request["approval_id"] if request is not None else get("approval_id")
    try:
        return (*_PLAIN_COLUMNS(body), approval_id)
    except KeyError:  # an entry that is not a step lacks some
        pass
    return (
        get("kind"), get("step_id"), get("attempt"), get("tenant_id"), get("node_id"), get("verdict"), get("code"),
        get("cost_micro_usd", 0), get("tokens", 0), get("started_us", 0), get("duration_ns", 0), approval_id,
    )  # fmt: skip


def step_fields(record: StepRecord) -> dict[str, Any]:
    """Return a step's immutable fields.

    ``stages`` holds one array a result: stage, plugin, effect, code, enforced, elapsed_ns, replaced.
    """
    request = record.approval_request
    return {
        "v": VERSION,
        "kind": "step",
        "run_id": record.run_id,
        "step_id": record.step_id,
        "attempt": record.attempt,
        "tenant_id": record.tenant_id,
        "node_id": record.node_id,
        "node_kind": record.node_kind,
        "tool": record.tool,
        "action": record.action,
        "verdict": _VERDICTS[record.verdict]._value_,
        "code": record.code,
        "stages": [
            (stage, plugin, effect._value_, code, enforced, elapsed_ns, replaced)
            for stage, plugin, effect, code, _, enforced, elapsed_ns, replaced, _ in record.results
        ],
        "executed": record.executed,
        "intended": record.intended,
        "cost_micro_usd": record.cost_micro_usd,
        "reserved_micro_usd": record.reserved_micro_usd,
        "tokens": record.tokens,
        "risk": record.risk,
        "origin": record.origin,
        "confidentiality": record.confidentiality,
        "uncertainty_ppm": record.uncertainty_ppm,
        "carbon_mg_co2": record.carbon_mg_co2,
        "started_us": record.started_us,
        "duration_ns": record.duration_ns,
        "fingerprint": record.fingerprint,
        "redaction": record.redaction,
        "unsafe": record.unsafe,
        "approval_id": record.approval_id,
        "approval_request": None
        if request is None
        else {
            "approval_id": request.approval_id,
            "arguments_digest": request.arguments_digest,
            "expires_at_us": request.expires_at_us,
            "codes": request.codes,
            "holds_output": request.holds_output,
            "required": request.required,
        },
    }


def is_plain(record: StepRecord) -> bool:
    """Say quickly whether all that ``step_fields`` takes over has the types that canonical bytes are made of.

    False decides nothing: the slower look at each value follows. This one is a third of what that costs, since the
    interpreter is fast at a type that is asked for by name.
    """
    for stage, plugin, effect, code, _, enforced, elapsed_ns, replaced, _ in record.results:
        if not (
            type(stage) is str and type(plugin) is str and type(effect) is Effect and type(code) is str
            and type(enforced) is bool and type(elapsed_ns) is int and type(replaced) is bool
        ):  # fmt: skip
            return False
    tool, action, risk, approval_id = record.tool, record.action, record.risk, record.approval_id
    origin, confidentiality = record.origin, record.confidentiality
    uncertainty, carbon = record.uncertainty_ppm, record.carbon_mg_co2
    return (
        type(record.run_id) is str
        and type(record.step_id) is str
        and type(record.attempt) is int
        and type(record.tenant_id) is str
        and type(record.node_id) is str
        and type(record.node_kind) is str
        and (tool is None or type(tool) is str)
        and (action is None or type(action) is str)
        and type(record.code) is str
        and type(record.executed) is bool
        and type(record.intended) is bool
        and type(record.cost_micro_usd) is int
        and type(record.reserved_micro_usd) is int
        and type(record.tokens) is int
        and (risk is None or type(risk) is str)
        and (origin is None or type(origin) is str)
        and (confidentiality is None or type(confidentiality) is str)
        and (uncertainty is None or type(uncertainty) is int)
        and (carbon is None or type(carbon) is int)
        and type(record.started_us) is int
        and type(record.duration_ns) is int
        and type(record.fingerprint) is str
        and type(record.redaction) is str
        and record.unsafe == ()
        and (approval_id is None or type(approval_id) is str)
        and record.approval_request is None
    )


def step_contents(record: StepRecord) -> dict[str, Any]:
    """Return a step's erasable fields, without the empty ones."""
    contents: dict[str, Any] = {}
    if record.input is not None:
        contents["input"] = record.input
    if record.output is not None:
        contents["output"] = record.output
    if record.metadata:
        contents["metadata"] = record.metadata
    if record.reason:
        contents["reason"] = record.reason
    if results := _result_texts(record.results):
        contents["results"] = results
    if record.principal is not None:
        contents["principal"] = principal_document(record.principal)
    if record.approval_request is not None:
        # With its salt gone, the digest of erased arguments confirms no guess.
        contents["request_salt"] = record.approval_request.salt
    return contents


def _result_texts(results: tuple[StageResult, ...]) -> dict[str, Any]:
    """Return reason and evidence of those results that have any, by their place among the stages."""
    return {
        str(place): {"reason": result.reason, "evidence": result.evidence}
        for place, result in enumerate(results)
        if result.reason or result.evidence
    }


def intent_fields(intent: Intent) -> dict[str, Any]:
    """Return an intent's immutable fields."""
    return {
        "v": VERSION,
        "kind": "intent",
        "run_id": intent.run_id,
        "step_id": intent.step_id,
        "attempt": intent.attempt,
        "tenant_id": intent.tenant_id,
        "node_id": intent.node_id,
        "node_kind": intent.node_kind,
        "tool": intent.tool,
        "action": intent.action,
        "risk": intent.risk,
        "origin": intent.origin,
        "confidentiality": intent.confidentiality,
        "started_us": intent.started_us,
        "fingerprint": intent.fingerprint,
        "approval_id": intent.approval_id,
    }


def intent_contents(intent: Intent) -> dict[str, Any]:
    """Return an intent's erasable fields, without the empty ones."""
    contents: dict[str, Any] = {}
    if intent.input is not None:
        contents["input"] = intent.input
    if intent.principal is not None:
        contents["principal"] = principal_document(intent.principal)
    return contents


def fork_fields(
    run_id: str, parent: tuple[str, int, str], tenant: str, at_us: int, fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the immutable fields of a fork's first entry.

    ``parent`` is the run forked, how many of its steps are inherited, and the entry hash of the last of those in
    hexadecimal, or with none inherited the genesis hash of the parent.
    """
    return {
        **(fields or {}),
        "v": VERSION, "kind": "fork", "run_id": run_id, "step_id": "", "attempt": 0, "tenant_id": tenant,
        "started_us": at_us, "parent_run_id": parent[0], "parent_steps": parent[1], "parent_entry_hash": parent[2],
    }  # fmt: skip


def principal_document(principal: Principal) -> dict[str, Any]:
    """Return a principal's JSON form."""
    return {
        "subject": principal.subject,
        "agent_id": principal.agent_id,
        "issuer": principal.issuer,
        "verified": principal.verified,
        "roles": principal.roles,
        "tenant": principal.tenant,
        "token_id": principal.token_id,
        "expires_at_us": principal.expires_at_us,
        "claims": principal.claims,
    }


def principal_from(document: Mapping[str, Any]) -> Principal:
    """Return the principal that ``principal_document`` described."""
    return Principal(**{**document, "roles": tuple(document["roles"]), "claims": MappingProxyType(document["claims"])})


def encode_contents(contents: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the payload bytes of each erasable field."""
    return {name: payload_bytes(value) for name, value in contents.items()}


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as a store holds it, with those of its payloads that are left."""

    run_id: str
    seq: int
    prev_hash: bytes
    entry_hash: bytes
    body: bytes
    payloads: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    step_index: int | None = None
    position: int = -1

    def intact(self) -> bool:
        """Say whether the entry has its own hash and each payload that is left is the one committed to."""
        if entry_hash(self.run_id, self.seq, self.prev_hash, self.body) != self.entry_hash:
            return False
        committed = orjson.loads(self.body)["commitments"]
        return all(commitment(salt, data) == committed.get(name) for name, (salt, data) in self.payloads.items())


def document_of(body: Any) -> dict[str, Any] | None:
    """Return a body as a document, or None when it is none."""
    try:
        document = orjson.loads(body)
    except (orjson.JSONDecodeError, TypeError):
        return None
    return document if isinstance(document, dict) else None
