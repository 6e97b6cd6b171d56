"""Going back in a run: its state at a step, forks, comparisons, replays; and whole runs as text."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshflow.clock import Clock
from meshflow.errors import LedgerError
from meshflow.ids import new_id
from meshflow.ledger.diff import RunDiff, compare
from meshflow.ledger.export import csv_text, json_text
from meshflow.ledger.format.canonical import MAX_INTEGER
from meshflow.ledger.format.entry import StoredEntry
from meshflow.ledger.format.steps import moment_us, step_dict
from meshflow.ledger.history import EVERY_RUN, RunFilter
from meshflow.ledger.spending import Spending
from meshflow.ledger.store import LedgerStore

if TYPE_CHECKING:
    from meshflow.ledger.player import Explains, Replay, Steps

_PAGE = 256
_NEEDED = ("input", "output")


class TimeTravel:
    """The part of ``ReplayLedger`` that reads whole runs and begins new ones from them."""

    _store: LedgerStore
    _clock: Clock
    _spending: Spending | None = None

    def _scope(self, tenant: str | None) -> str | None:
        raise NotImplementedError

    async def run_summary(self, run_id: str, *, tenant: str | None = None) -> dict[str, Any]:
        """Return what a run's own steps sum up to; an unknown run has none."""
        raise NotImplementedError

    async def get_run(self, run_id: str, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return a run's steps in order, as dicts; an unknown run has none.

        Those that a fork inherits come first. They keep the ``run_id`` of the run that did them, and say
        ``inherited``.
        """
        steps: list[dict[str, Any]] = []
        page: list[StoredEntry] = []
        async for entry in self._store.entries(run_id, "step", self._scope(tenant)):
            page.append(entry)
            if len(page) == _PAGE:
                steps += _page_of_run(run_id, page)
                page = []
        return steps + _page_of_run(run_id, page)

    async def iter_run(self, run_id: str, *, tenant: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield what ``get_run`` returns, a page at a time, so that a long run need not fit into memory."""
        async for entry in self._store.entries(run_id, "step", self._scope(tenant)):
            yield _of_run(run_id, entry)

    async def iter_history(self, run_id: str, *, tenant: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield a run's own entries of every kind in the order of the chain, with their ``position`` in the ledger.

        LedgerError for one that does not match its own hashes, so that no reader builds on it.
        """
        async for entry in self._store.history(run_id, self._scope(tenant)):
            if not entry.intact():
                raise LedgerError(f"entry {entry.seq} of run {run_id!r} does not match its hashes; verify the run")
            yield step_dict(entry) | {"position": entry.position}

    async def list_runs(
        self, *, limit: int = 100, offset: int = 0, before: str | None = None, tenant: str | None = None,
        verdict: str | None = None, node: str | None = None, tool: str | None = None,
        since: datetime | str | float | None = None, until: datetime | str | float | None = None,
    ) -> list[str]:  # fmt: skip
        """Return the ids of runs, the newest first; ``before`` pages on from a run id without counting.

        Filters must all hold: a step of the run has the ``verdict``, is of the ``node``, calls the ``tool``, and some
        step began or still ran ``since`` and began before ``until`` (RFC 3339, a datetime with a zone, or seconds since
        the epoch). Whom a run acted for is erasable and in no index, so there is no filter for it.
        """
        if limit < 0 or offset < 0:
            raise LedgerError("limit and offset are not negative")
        where = RunFilter(
            verdict, node, tool, None if since is None else moment_us(since, "since"),
            None if until is None else moment_us(until, "until"),
        )  # fmt: skip
        if where == EVERY_RUN:
            return await self._store.runs(limit, offset, before, self._scope(tenant))
        return await self._store.find_runs(where, limit, offset, before, self._scope(tenant))

    async def load_state(self, run_id: str, step_index: int, *, tenant: str | None = None) -> dict[str, Any]:
        """Return the step at an index that counts steps alone, from 0, or from the end when negative.

        Beside what ``get_run`` returns of a step: ``facts``, which the stages found, by stage, and ``cost_so_far_usd``,
        ``cost_so_far_micro_usd`` and ``tokens_so_far``, which the run itself had spent once the step had ended.
        """
        if isinstance(step_index, bool) or not isinstance(step_index, int):
            raise LedgerError(f"a step index is a whole number, not {step_index!r}")
        scope = self._scope(tenant)
        entry = None
        if abs(step_index) <= MAX_INTEGER:
            entry = await self._store.entry_at(run_id, step_index, "step", scope)
        if entry is None:
            raise LedgerError(f"run {run_id!r} has no step {step_index}")
        step = _of_run(run_id, entry)
        if self._spending is None:
            self._spending = Spending(self._store)
        index = step_index if entry.step_index is None else entry.step_index
        cost, tokens = (0, 0) if step["inherited"] else await self._spending.until(run_id, index, scope)
        return step | {
            "facts": _facts(step),
            "cost_so_far_usd": cost / 1_000_000,
            "cost_so_far_micro_usd": cost,
            "tokens_so_far": tokens,
        }

    async def lineage(self, run_id: str, *, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return the runs that a run comes from: itself first, each with its parent and how many steps it inherits."""
        found: list[dict[str, Any]] = []
        current: str | None = run_id
        while current is not None:
            step: dict[str, Any] = {"parent_run_id": None, "parent_steps": 0, "parent_entry_hash": None}
            async for entry in self._store.entries(current, "fork", self._scope(tenant)):
                body = step_dict(entry)
                step = {name: body[name] for name in step}
            found.append({"run_id": current, **step})
            current = step["parent_run_id"]
        return found

    async def diff(self, run_a: str, run_b: str, *, tenant: str | None = None) -> RunDiff:
        """Compare two runs step by step; LedgerError for one that the ledger does not know."""
        return await compare(self._store, run_a, run_b, self._scope(tenant))

    async def fork(
        self, run_id: str, from_step: int, *, new_run_id: str | None = None, tenant: str | None = None
    ) -> str:
        """Begin a run that inherits steps 0 to ``from_step`` - 1 by reference, and return its id.

        Its first entry names the parent, how many steps it inherits and the entry hash of the last one, so that both
        runs verify. LedgerError where the parent has not so many steps, or where input or output of the last of them,
        from which the fork would go on, is erased.
        """
        if isinstance(from_step, bool) or not isinstance(from_step, int) or from_step < 0:
            raise LedgerError(f"a fork begins at a step index from 0, not at {from_step!r}")
        scope = self._scope(tenant)
        if 0 < from_step <= MAX_INTEGER:
            last = await self._store.entry_at(run_id, from_step - 1, "step", scope)
            if last is None and await self._store.is_deleted(run_id, scope):
                raise LedgerError(f"run {run_id!r} is deleted and cannot be forked")
            if last is not None and (gone := [name for name in step_dict(last)["erased"] if name in _NEEDED]):
                raise LedgerError(
                    f"run {run_id!r} cannot be forked at step {from_step}: {' and '.join(gone)} of step "
                    f"{from_step - 1} is erased; fork at an earlier step"
                )
        fork_id = new_run_id if new_run_id is not None else new_id("run")
        await self._store.fork_run(fork_id, run_id, from_step, scope, self._clock.now_us())
        return fork_id

    async def rewind(self, run_id: str, to_step: int, *, tenant: str | None = None) -> str:
        """Return the id of a new run in which step ``to_step`` is the next to run; what was recorded stays.

        A negative ``to_step`` counts from the end: -1 takes back the last step.
        """
        if not isinstance(to_step, bool) and isinstance(to_step, int) and to_step < 0:
            to_step = (await self.load_state(run_id, to_step, tenant=tenant))["step_index"]
        return await self.fork(run_id, to_step, tenant=tenant)

    async def replay(
        self, run_id: str, steps: Steps | None = None, *, runtime: Explains | None = None, every: bool = False,
        fingerprints: bool = False, decided: bool = False, tenant: str | None = None,
    ) -> Replay:  # fmt: skip
        """Go through a recorded run again without a single call, up to the first step that would now differ.

        ``steps`` is ``async def steps(player)``: the program that made the run, with ``player`` in place of its
        runtime; each ``await player.run(NodeInput(...))`` returns the recorded outcome. ``runtime`` is a StepRuntime
        whose gates are asked, as ``explain`` does, what they would now decide. Give either, or both. With ``every`` a
        replay by a runtime alone goes on past differences; with ``fingerprints`` another pipeline is a difference.
        With ``decided`` a step that waited for a person is answered with what became of it later.
        """
        if steps is None and runtime is None:
            raise LedgerError("a replay needs the steps to run again, a runtime to decide again, or both")
        entries = [entry async for entry in self._store.entries(run_id, "step", self._scope(tenant))]
        if not entries:
            raise LedgerError(f"the ledger has no step of run {run_id!r}")
        if steps is None:
            from meshflow.ledger.reexplain import decide_again

            assert runtime is not None  # noqa: S101 - checked above
            return await decide_again(run_id, entries, runtime, every=every, fingerprints=fingerprints)
        from meshflow.ledger.player import play

        return await play(run_id, entries, steps, runtime, fingerprints=fingerprints, decided=decided)

    async def export_run(self, run_id: str, *, tenant: str | None = None) -> str:
        """Return a run as one JSON object, with all that is needed to recheck its chain; see ``iter_export``."""
        return "".join([part async for part in self.iter_export(run_id, tenant=tenant)])

    async def iter_export(self, run_id: str, *, tenant: str | None = None) -> AsyncIterator[str]:
        """Yield the JSON export of a run in parts.

        ``entries`` hold what was hashed and what is left of the payloads, ``parents`` the same of the runs that a fork
        inherits from, ``steps`` what ``get_run`` returns. ``complete`` is False for one tenant's part in a run of
        several, whose chain has gaps. LedgerError for an unknown run.
        """
        scope = self._scope(tenant)
        mine, all_parts = await self._store.totals(run_id, scope), await self._store.totals(run_id, None)
        if not mine:
            raise LedgerError(f"the ledger has no run {run_id!r}")
        parts = json_text(
            self._store, run_id, scope,
            complete=len(mine) == len(all_parts), summary=await self.run_summary(run_id, tenant=tenant),
            steps=self.iter_run(run_id, tenant=tenant),
        )  # fmt: skip
        async for part in parts:
            yield part

    async def export_run_csv(self, run_id: str, *, tenant: str | None = None) -> str:
        """Return a run's steps as CSV (RFC 4180) that is safe to open in a spreadsheet.

        Text that a spreadsheet could take for a formula begins with an apostrophe; the JSON export has it as it was.
        """
        return "".join([part async for part in self.iter_export_csv(run_id, tenant=tenant)])

    async def iter_export_csv(self, run_id: str, *, tenant: str | None = None) -> AsyncIterator[str]:
        """Yield the CSV export of a run in parts; LedgerError for an unknown run."""
        if not await self._store.totals(run_id, self._scope(tenant)):
            raise LedgerError(f"the ledger has no run {run_id!r}")
        async for part in csv_text(self.iter_run(run_id, tenant=tenant)):
            yield part


def _page_of_run(run_id: str, page: Sequence[StoredEntry]) -> list[dict[str, Any]]:
    """Return the steps of a page, some milliseconds' work.

    Meanwhile the garbage collector rests: it would go over all steps made before, again and again, which takes as long
    as making them.
    """
    if not gc.isenabled():
        return [_of_run(run_id, entry) for entry in page]
    gc.disable()
    try:
        return [_of_run(run_id, entry) for entry in page]
    finally:
        gc.enable()


def _of_run(run_id: str, entry: StoredEntry) -> dict[str, Any]:
    step = step_dict(entry)
    step["inherited"] = entry.run_id != run_id
    return step


def _facts(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the stages found, as far as it is on record, by stage."""
    named = {
        "identity_verification": step["principal"],
        "tenant_scoping": {"tenant_id": step["tenant_id"]},
        "risk_classification": step.get("risk"),
        "taint_propagation": step["labels"],
    }
    evidence: dict[str, Any] = {}
    for result in step["stages"]:
        if result["evidence"] and result["enforced"]:
            evidence.setdefault(result["stage"], {}).update(result["evidence"])
    return {**evidence, **{stage: fact for stage, fact in named.items() if fact is not None}}
