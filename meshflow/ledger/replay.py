"""ReplayLedger: the ledger as applications, plugins and the command line use it."""

from __future__ import annotations

import asyncio
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshflow.clock import Clock, SystemClock
from meshflow.errors import ConfigError, EncodingError, LedgerError
from meshflow.ledger import approvals
from meshflow.ledger.bundle.calls import BundleCalls
from meshflow.ledger.controls import ControlCalls
from meshflow.ledger.erasure import ErasureCalls
from meshflow.ledger.evidence import EvidenceCalls
from meshflow.ledger.format.companions import CompanionSource, companion_of
from meshflow.ledger.format.entry import (
    Draft,
    Intent,
    Written,
    intent_contents,
    intent_fields,
    is_plain,
    seal,
    step_contents,
    step_fields,
)
from meshflow.ledger.format.keys import KeySource, key_source
from meshflow.ledger.format.payload import quick_payload, settle_payload
from meshflow.ledger.format.salts import Salts
from meshflow.ledger.format.steps import completed, record_from, step_dict, timestamp
from meshflow.ledger.locate import locate
from meshflow.ledger.sql.store import SqlStore
from meshflow.ledger.sql.vault import vault_of
from meshflow.ledger.store import LedgerStore
from meshflow.ledger.timetravel import TimeTravel
from meshflow.record import StepRecord
from meshflow.step import Approval

# Above this many bytes of payload the rest of the encoding leaves the event loop; below, the thread would cost more.
_BULKY = 128 * 1024
_VERDICTS = {"commits": "commit", "rejects": "reject", "escalates": "escalate", "errors": "error"}


class ReplayLedger(EvidenceCalls, BundleCalls, ErasureCalls, ControlCalls, TimeTravel):
    """An append-only, verifiable ledger of steps in a SQLite file or a PostgreSQL database.

    ``location`` is the file's path, ``:memory:`` for a ledger that lasts as long as the object, or a URL such as
    ``postgresql://user:password@host/database?schema=meshflow``. With ``tenant`` every write must be that tenant's and
    every read sees nothing else. Nothing is opened before first use; reading never makes a ledger. Any number of event
    loops, threads and processes may write, on PostgreSQL of any number of machines; after a ``fork`` the child needs a
    ledger of its own. In place of a location ``store`` gives a store of somebody else's, which then looks after keys,
    encryption and patience itself.

    ``key`` signs the checkpoints: ``auto`` is a file beside the ledger, on PostgreSQL in the working directory, made on
    first use; else the path of such a file, ``env:NAME`` for a variable, or None to sign nothing. Every commit ends
    with a checkpoint. With ``checkpoint_every`` above 1 the first commit does, and from then on one is signed once so
    many entries have none over them, and no later than ``checkpoint_within_ms`` after the first of them; until then
    somebody who can write to the database can change or take away those entries and nobody will know. With
    ``ml_dsa_44`` a second key, which withstands quantum computers, signs each checkpoint too; it is kept beside the
    first one.

    With ``encrypt`` as ``run`` or ``subject`` payloads are kept under a data key of each run, or of whom they belong
    to, wrapped by the key in the file or ``env:NAME`` that ``key_encryption_key`` names; reading needs that key too.
    """

    def __init__(
        self, location: str | Path | None = None, *, tenant: str | None = None, clock: Clock | None = None,
        busy_timeout_ms: int = 15_000, queue_limit: int = 4_096, key: str | Path | None = "auto",
        checkpoint_every: int = 1, checkpoint_within_ms: int = 1_000, encrypt: str = "none",
        key_encryption_key: str | None = None, ml_dsa_44: bool = False, store: LedgerStore | None = None,
    ) -> None:  # fmt: skip
        if (location is None) == (store is None):
            raise ConfigError("give a location or a store, and one of them alone", where="ReplayLedger")
        self._tenant = tenant
        self._clock = clock if clock is not None else SystemClock()
        self.signs = key is not None
        """Whether the ledger has a key that checkpoints are signed with."""
        self.encrypts = encrypt
        """Under whose key payloads are encrypted: none, run or subject."""
        self.path: Path | None = None
        """The file, where the ledger is one."""
        self.key: KeySource | None = None
        self.companion: CompanionSource | None = None
        self._beside, cleanup = Path("meshflow"), None
        if location is not None:
            place = locate(location, busy_timeout_ms=busy_timeout_ms, tenant=tenant)
            self.path, self._beside, cleanup = place.path, place.beside, place.cleanup
            self.name = place.database.name
            self.key = key_source(key, place.beside)
            self.companion = companion_of(self.key) if ml_dsa_44 else None
            store = SqlStore(
                place.database, queue_limit=queue_limit, key=self.key, patience_ms=busy_timeout_ms,
                checkpoint_every=checkpoint_every, checkpoint_within_ms=checkpoint_within_ms,
                now_us=self._clock.now_us, vault=vault_of(encrypt, key_encryption_key), companion=self.companion,
            )  # fmt: skip
        else:
            self.name = type(store).__name__
        """What messages call the ledger: the file's path, or the URL without its password."""
        assert store is not None  # noqa: S101 - one of the two is given
        self._store: LedgerStore = store
        self._salts = Salts()
        self._finalizer = weakref.finalize(self, _abandon, self._store, cleanup)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Open the file for writing and make it if need be, which otherwise the first write does."""
        await self._store.open()

    async def aclose(self) -> None:
        """Write out what was handed in, then close. A closed ledger stays closed."""
        await self._store.aclose()
        self._finalizer()

    async def write(self, step: StepRecord | Mapping[str, Any]) -> Written:
        """Record an attempt at a step and return once it is durable.

        A mapping has the names that ``get_run`` returns; its ``prev_hash`` is a precondition on the run's head. A
        missing step id and time are filled in. The same step written twice is one entry; another one under its key
        raises LedgerConflictError.
        """
        prev_hash = entry_hash = ""
        if not isinstance(step, StepRecord):
            step, prev_hash, entry_hash = record_from(step)
        if not (step.step_id and step.started_us):
            step = completed(step, step_id=uuid.uuid4().hex, started_us=self._clock.now_us())
        await self._store.admit()
        draft = await self._draft(step_fields(step), step_contents(step), plain=is_plain(step))
        draft.expect_prev = _digest(prev_hash, "prev_hash")
        draft.expect_hash = _digest(entry_hash, "entry_hash")
        return await self._store.append(draft)

    async def write_intent(self, intent: Intent) -> Written:
        """Record that a step is about to run and return once that is durable.

        A second intent for the same attempt raises LedgerConflictError: the first may have run.
        """
        await self._store.admit()
        return await self._store.append(await self._draft(intent_fields(intent), intent_contents(intent)))

    async def _draft(self, fields: dict[str, Any], contents: Mapping[str, Any], *, plain: bool = False) -> Draft:
        if self._tenant is not None and fields["tenant_id"] != self._tenant:
            raise LedgerError(f"this ledger is open for tenant {self._tenant!r}, the entry is another tenant's")
        quick: dict[str, bytes | None] = {}
        size = 0
        for name, value in contents.items():
            data = quick[name] = quick_payload(value)
            size += _BULKY if data is None else len(data)
        if size >= _BULKY:
            return await asyncio.to_thread(_seal, fields, contents, quick, self._salts, plain)
        return _seal(fields, contents, quick, self._salts, plain)

    async def entries(self, run_id: str, kind: str, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return a run's entries of another kind: intent, approval, erasure or close."""
        return [step_dict(entry) async for entry in self._store.entries(run_id, kind, self._scope(tenant))]

    async def run_summary(self, run_id: str, *, tenant: str | None = None) -> dict[str, Any]:
        """Return what a run's steps sum up to; an unknown run has none."""
        scope = self._scope(tenant)
        rows = await self._store.totals(run_id, scope)
        total = {name: sum(row[name] for row in rows) for name in ("steps", "cost_micro_usd", "tokens", *_VERDICTS)}
        started = [row["first_us"] for row in rows if row["first_us"] is not None]
        ended = [row["last_us"] for row in rows if row["last_us"] is not None]
        return {
            "run_id": run_id,
            "steps": total["steps"],
            "nodes": await self._store.nodes(run_id, scope),
            "total_cost_usd": total["cost_micro_usd"] / 1_000_000,
            "total_cost_micro_usd": total["cost_micro_usd"],
            "total_tokens": total["tokens"],
            "deleted": await self._store.is_deleted(run_id, scope),
            "blocked_steps": total["steps"] - total["commits"],
            "verdicts": {verdict: total[name] for name, verdict in _VERDICTS.items() if total[name]},
            "timestamps": {
                "start": timestamp(min(started)) if started else None,
                "end": timestamp(max(ended)) if ended else None,
            },
        }

    async def close_run(self, run_id: str, *, tenant: str | None = None) -> Written:
        """Append the closing entry, which counts the entries before it; nothing but an erasure may follow."""
        return await self._store.close_run(run_id, self._scope(tenant), self._clock.now_us())

    async def unfinished(self, run_id: str | None = None, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return the intents whose attempt has no outcome on record: those steps may have run."""
        return [step_dict(entry) for entry in await self._store.unfinished(run_id, self._scope(tenant))]

    async def next_attempt(self, run_id: str, step_id: str) -> int:
        """Return the attempt number after the highest that the ledger holds of a step; 1 for a new step."""
        found = [await self._store.last_of(run_id, step_id, kind) for kind in ("step", "intent")]
        return 1 + max((step_dict(entry)["attempt"] for entry in found if entry is not None), default=0)

    async def may_have_run(self, run_id: str, step_id: str, *, after: int = 0) -> bool:
        """Return whether an attempt at a step behind number ``after`` completed, or began without a recorded end."""
        last = await self._store.last_of(run_id, step_id, "step")
        if last is not None:
            step = step_dict(last)
            if step["attempt"] > after and step["verdict"] == "commit":
                return True
        begun = await self.unfinished(run_id)
        return any(intent["step_id"] == step_id and intent["attempt"] > after for intent in begun)

    async def pending_approvals(self, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return the steps that wait for a person, the oldest first."""
        return await approvals.pending(self._store, self._clock, self._scope(tenant))

    async def decide_approval(
        self, approval_id: str, *, approve: bool, approver: str, reason: str = "", tenant: str | None = None,
        edited: Any = approvals.AS_ASKED,
    ) -> dict[str, Any]:  # fmt: skip
        """Record a person's decision; ApprovalRefusedError says why it may not be made.

        Where several people must approve, each of their answers is an entry, and the last one decides; a denial decides
        alone. ``edited`` approves other arguments than those that were asked about: the gates see them anew.
        """
        answer = approvals.Answer(approve, approver, reason, edited is not approvals.AS_ASKED, edited)
        return await approvals.decide(self._store, self._clock, self._scope(tenant), approval_id, answer)

    async def find_approval(self, run_id: str, step_id: str) -> Approval | None:
        """Return the latest decision on a step, or None."""
        return await approvals.find(self._store, run_id, step_id, self._tenant)

    def _scope(self, tenant: str | None) -> str | None:
        if self._tenant is None:
            return tenant
        if tenant is None or tenant == self._tenant:
            return self._tenant
        raise LedgerError(f"this ledger is open for tenant {self._tenant!r} alone")


def _seal(
    fields: dict[str, Any], contents: Mapping[str, Any], quick: Mapping[str, bytes | None], salts: Salts, plain: bool
) -> Draft:
    payloads = {name: settle_payload(contents[name], data) for name, data in quick.items()}
    return seal(fields, payloads, salts, plain=plain)


def _digest(text: str, name: str) -> bytes | None:
    if not text:
        return None
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise EncodingError("not a hash in hexadecimal", path=name) from None


def _abandon(store: LedgerStore, cleanup: Callable[[], None] | None) -> None:
    store.stop()
    if cleanup is not None:
        cleanup()
