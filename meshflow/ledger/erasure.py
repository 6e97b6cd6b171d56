"""Erasure: what goes, why, and by whose authority; legal holds that forbid it; and the calls of a ledger that do it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from meshflow.clock import Clock
from meshflow.errors import LedgerError, MeshflowError
from meshflow.ledger.format.entry import FIELD_NUMBER, FIELDS

if TYPE_CHECKING:
    from meshflow.ledger.retention import RetentionReport, RetentionRule

DELETED = "deleted"
"""The code of a tombstone after which a run's earlier steps are not listed any more."""

HIDDEN_KINDS = ("step", "intent", "approval", "vote")
"""What the deletion of a run takes out of sight."""

IDENTIFYING = ("principal", "approver", "input", "output", "metadata", "reason", "results")
"""What ``anonymize_run`` erases unless told otherwise: names, and every text that may hold one."""

_STATE = frozenset({"input", "output"})
"""Fields whose texts are in the state of a graph as well."""

_PAGE = 500


class LegalHoldError(LedgerError):
    """A legal hold forbids the erasure; whoever placed it releases it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureOrder:
    """What a store is to erase in a run, and what the tombstone says of it.

    With ``subject`` only entries of that person or agent; with ``only`` only the fields given for each position. With
    ``delete`` the run's steps are not listed afterwards.
    """

    fields: frozenset[str]
    reason: str
    authority: str
    tenant: str | None
    at_us: int
    delete: bool = False
    subject: str | None = None
    only: Mapping[int, frozenset[str]] | None = None


class ErasableStore(Protocol):
    """What a ledger needs of a store to erase and to hold; part of LedgerStore."""

    async def erase(self, run_id: str, order: ErasureOrder) -> int:
        """Append a tombstone for each tenant concerned and delete the payloads named, in one transaction.

        Returns how many went. LegalHoldError when a hold covers any of them; nothing is erased then. Afterwards no
        copy of them may be left in the store's own files.
        """
        ...

    async def is_deleted(self, run_id: str, tenant: str | None) -> bool:
        """Say whether a run was deleted, by any tenant in it, or by that one."""
        ...

    async def runs_of_subject(self, subject: str, after: str, limit: int, tenant: str | None) -> list[str]:
        """Return, in order of their ids, runs after one that still hold payloads of a person or agent."""
        ...

    async def hold(
        self, run_id: str | None, subject: str | None, reason: str, authority: str, tenant: str | None, at_us: int
    ) -> int:
        """Place a hold on a run or a subject, under a record; return its number."""
        ...

    async def release_hold(self, number: int, reason: str, authority: str, tenant: str | None, at_us: int) -> bool:
        """Release a hold under a record; False when it was released before."""
        ...

    async def holds(self, released: bool, tenant: str | None) -> list[dict[str, Any]]:
        """Return the holds in force, and with ``released`` those that were."""
        ...

    async def hold_on(self, run_id: str, tenant: str) -> int | None:
        """Return the number of a hold on a tenant's part of a run, or on somebody who has payloads in it."""
        ...

    async def rewrap(self, key: str) -> int:
        """Wrap every data key under the key-encryption key that is named, in one transaction; return how many."""
        ...

    async def expired(
        self, rules: Collection[RetentionRule], now_us: int, after: int, limit: int, tenant: str | None
    ) -> tuple[dict[str, dict[int, frozenset[str]]], int | None]:
        """Look at up to ``limit`` entries from a position on; return what is past its time, by run, and where to go on.

        The second part is None at the end of the ledger.
        """
        ...


class KeepsRunsToo(Protocol):
    """What keeps data of the same runs elsewhere: a checkpoint store, whose threads hold the state itself."""

    async def erase_runs(
        self, tenant: str | None, run_ids: Sequence[str], held: Callable[[str, str], Awaitable[bool]] | None = None
    ) -> int:
        """Erase what it keeps of these runs, in a tenant or in all; doing it again is no error.

        What it keeps of a run that is ``held``, by its id and tenant, stays, with all that cannot be parted from it.
        """
        ...


class ErasureCalls:
    """The part of ReplayLedger that erases."""

    _store: ErasableStore
    _clock: Clock
    _elsewhere: tuple[KeepsRunsToo, ...] = ()

    def _scope(self, tenant: str | None) -> str | None:
        raise NotImplementedError

    def also_erase(self, *stores: KeepsRunsToo) -> None:
        """Name checkpoint stores whose threads are to go when inputs or outputs of their runs are erased here.

        Theirs goes behind the ledger's own part, which a legal hold forbids; a thread that a held run is in stays, too.
        An error there (a hold, a run that works on the thread, a store that cannot be reached) is raised when the
        ledger's part is done. The same call again does the rest; after ``erase_subject``, which finds nothing any more
        in the runs that it names under ``held``, call ``delete_run`` or ``anonymize_run`` for each of those.
        """
        self._elsewhere = (*self._elsewhere, *stores)

    async def delete_run(
        self, run_id: str, *, reason: str = "erasure request", authority: str = "operator", tenant: str | None = None
    ) -> int:
        """Erase every payload of a run and stop listing its steps; return how many payloads went.

        The run's id, verdicts, costs and times stay in its entries, so that it still verifies; ``run_summary`` says
        that it is deleted. A fork's view of the run goes with it. Doing it again is 0. LegalHoldError when it is held.
        ``reason`` and ``authority`` stay for good, so they must not name a person.
        """
        return await self._erased(run_id, self._order(FIELDS, reason, authority, tenant, delete=True))

    async def anonymize_run(
        self, run_id: str, *, fields: Collection[str] = IDENTIFYING, reason: str = "anonymisation",
        authority: str = "operator", tenant: str | None = None,
    ) -> int:  # fmt: skip
        """Erase the fields of a run that identify people; its steps, verdicts, costs and times stay listed."""
        return await self._erased(run_id, self._order(fields, reason, authority, tenant))

    async def erase_payloads(
        self, run_id: str, *, fields: Collection[str] = FIELDS, reason: str, authority: str, tenant: str | None = None
    ) -> int:
        """Delete erasable fields of a run under a tombstone that says why and by whose authority; return how many went.

        ``reason`` and ``authority`` stay for good, so they must not name a person.
        """
        return await self._erased(run_id, self._order(fields, reason, authority, tenant))

    async def _erased(self, run_id: str, order: ErasureOrder) -> int:
        gone = await self._store.erase(run_id, order)
        await self._erase_elsewhere([run_id], order)
        return gone

    async def _erase_elsewhere(self, run_ids: Sequence[str], order: ErasureOrder) -> None:
        """Erase in the other stores; LegalHoldError if a thread stays, because a run is in it that is held."""
        found: dict[str, int] = {}

        async def held(run_id: str, tenant: str) -> bool:
            number = await self._store.hold_on(run_id, tenant)
            if number is not None:
                found[run_id] = number
            return number is not None

        if order.fields & _STATE:
            for store in self._elsewhere:
                await store.erase_runs(order.tenant, run_ids, held)
        if found:
            holds = ", ".join(f"hold {number} on run {run_id!r}" for run_id, number in sorted(found.items()))
            raise LegalHoldError(
                f"the state of graphs that {list(run_ids)} share with runs under legal hold is not erased ({holds}); "
                "release the hold first, then delete_run or anonymize_run erases it"
            )

    async def erase_subject(
        self, subject: str, *, fields: Collection[str] = FIELDS, reason: str = "erasure request",
        authority: str = "operator", tenant: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Erase what a person or an agent did, in every run; return ``erased``, ``runs`` and ``held``.

        Found are the entries whose principal has that subject or agent id, and the approvals that they gave.
        ``runs`` says of each run how many payloads went, ``held`` why a run was passed over, or what of it is left.
        """
        order = self._order(fields, reason, authority, tenant, subject=_name(subject, "subject"))
        runs: dict[str, int] = {}
        held: dict[str, str] = {}
        before, after = -1, ""
        while sum(runs.values()) != before:  # once more, for what was written meanwhile
            before, after = sum(runs.values()), ""
            while page := await self._store.runs_of_subject(subject, after, _PAGE, order.tenant):
                for run_id in page:
                    await _erase_one(self._store, run_id, order, runs, held)
                after = page[-1]
        for run_id in sorted(runs):
            try:
                await self._erase_elsewhere([run_id], order)
            except MeshflowError as error:
                held[run_id] = (
                    f"run {run_id!r}: erased in the ledger, and its graph's state is not, which delete_run or "
                    f"anonymize_run of this run erases later: {error}"
                )
        return {"erased": sum(runs.values()), "runs": runs, "held": held}

    async def hold(
        self, run_id: str | None = None, *, subject: str | None = None, reason: str, authority: str,
        tenant: str | None = None,
    ) -> int:  # fmt: skip
        """Forbid erasure of a run, or of what a person or agent did; return the hold's number.

        A hold without a tenant covers every tenant's part of the run. It is recorded in the run, a subject's in the
        run ``meshflow.holds``. ``reason`` and ``authority`` stay for good, so they must not name a person.
        """
        if (run_id is None) == (subject is None):
            raise LedgerError("a hold is on a run or on a subject; give one of the two")
        for name, value in (("subject", subject), ("reason", reason), ("authority", authority)):
            if value is not None:
                _name(value, name)
        return await self._store.hold(run_id, subject, reason, authority, self._scope(tenant), self._clock.now_us())

    async def release_hold(self, number: int, *, reason: str, authority: str, tenant: str | None = None) -> bool:
        """Release a hold, with a record; False when it had been released already."""
        _name(reason, "reason")
        _name(authority, "authority")
        return await self._store.release_hold(number, reason, authority, self._scope(tenant), self._clock.now_us())

    async def holds(self, *, released: bool = False, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return the holds in force, the oldest first; with ``released`` also those that were."""
        return await self._store.holds(released, self._scope(tenant))

    async def rewrap(self, key_encryption_key: str) -> int:
        """Wrap the data keys of encrypted payloads under another key-encryption key; return how many there are.

        ``key_encryption_key`` names the new one, as for a ledger; this one must be open with the old one, and goes on
        with the new. Payloads are not touched. Whoever has the ledger open with the old key cannot read on, and once
        the old key is destroyed, backups of the ledger from before cannot be read by anybody.
        """
        return await self._store.rewrap(key_encryption_key)

    async def apply_retention(
        self, rules: Collection[RetentionRule], *, now_us: int | None = None, tenant: str | None = None
    ) -> RetentionReport:
        """Erase what is past the time that the first matching rule keeps it; runs under hold are passed over."""
        from meshflow.ledger.retention import sweep

        scope = self._scope(tenant)
        return await sweep(self._store, rules, self._clock.now_us() if now_us is None else now_us, scope)

    def _order(
        self, fields: Collection[str], reason: str, authority: str, tenant: str | None, *, delete: bool = False,
        subject: str | None = None,
    ) -> ErasureOrder:  # fmt: skip
        return ErasureOrder(
            fields=with_salts(fields), reason=_name(reason, "reason"), authority=_name(authority, "authority"),
            tenant=self._scope(tenant), at_us=self._clock.now_us(), delete=delete, subject=subject,
        )  # fmt: skip


async def _erase_one(
    store: ErasableStore, run_id: str, order: ErasureOrder, runs: dict[str, int], held: dict[str, str]
) -> None:
    """Erase in one run of many, and note what came of it."""
    try:
        gone = await store.erase(run_id, order)
    except LegalHoldError as error:
        held[run_id] = str(error)
    else:
        if gone:
            runs[run_id] = runs.get(run_id, 0) + gone


def with_salts(fields: Collection[str]) -> frozenset[str]:
    """Return the fields checked, with the salt that goes where the arguments go: its digest would confirm a guess."""
    if isinstance(fields, str) or (unknown := set(fields) - set(FIELD_NUMBER)):
        raise LedgerError(f"no erasable fields {fields if isinstance(fields, str) else sorted(unknown)!r}; "
                          f"choose from {list(FIELDS)}")  # fmt: skip
    return frozenset(fields) | ({"request_salt"} if "input" in fields else set())


def _name(value: str, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LedgerError(f"{name}: an erasure or hold needs one, a text that is not empty")
    return value
