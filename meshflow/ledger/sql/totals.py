"""What the index of runs must say, summed up from the entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshflow.ledger.format.findings import Finding
from meshflow.ledger.sql.database import Connection

_VERDICTS = ("commit", "reject", "escalate", "error")
_NAMES = (
    "first_seq", "parent_run_id", "parent_steps", "entries", "steps", "commits", "rejects", "escalates", "errors",
    "cost_micro_usd", "tokens", "first_us", "last_us",
)  # fmt: skip


def cut_off(run_id: str, due: int, counted: Any) -> list[Finding]:
    """Return what is missing at the end of a run whose index counts more entries than the run comes to."""
    if counted is None or counted <= due:
        return []
    return [Finding("run_index", f"missing, and the index of runs counts {int(counted)} entries", run_id, due)]


class RunTotals:
    """Sums up a run as its entries pass, and compares with the rows of ``runs``, ``run_nodes`` and ``run_tools``."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._rows: dict[Any, list[Any]] = {}
        self._nodes: dict[tuple[Any, Any], int] = {}
        self._tools: dict[tuple[Any, Any], int] = {}

    def add(self, seq: int, columns: tuple[Any, ...], document: Mapping[str, Any]) -> None:
        """Count an entry."""
        kind, _, _, tenant, node, verdict, _, cost, tokens, started, duration, _ = columns
        row = self._rows.get(tenant)
        if row is None:
            row = self._rows[tenant] = [seq, None, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, None]
        row[3] += 1
        if kind == "fork":
            row[1], row[2] = document["parent_run_id"], document["parent_steps"]
        if kind != "step":
            return
        end = started + duration // 1_000
        row[4] += 1
        row[5 + _VERDICTS.index(verdict)] += 1
        row[9] += cost
        row[10] += tokens
        row[11] = started if row[11] is None else min(row[11], started)
        row[12] = end if row[12] is None else max(row[12], end)
        if node is not None:
            self._nodes.setdefault((tenant, node), seq)
        if type(tool := document.get("tool")) is str:
            self._tools.setdefault((tenant, tool), seq)

    def differences(self, connection: Connection, due: int) -> list[Finding]:
        """Return what the index of runs says otherwise; ``due`` is the seq of the entry that would come next."""
        problems = [Finding("run_index", problem, self._run_id) for problem in self._problems(connection)]
        (stored,) = connection.execute("SELECT sum(entries) FROM runs WHERE run_id = ?", (self._run_id,)).fetchone()
        return [*problems, *cut_off(self._run_id, due, stored)]

    def _problems(self, connection: Connection) -> list[str]:
        stored = {
            row[0]: list(row[1:])
            for row in connection.execute(
                f"SELECT tenant_id, {', '.join(_NAMES)} FROM runs WHERE run_id = ?",  # noqa: S608 - names from above
                (self._run_id,),
            )
        }
        problems = []
        for tenant in [*self._rows, *(tenant for tenant in stored if tenant not in self._rows)]:
            mine, theirs = self._rows.get(tenant), stored.get(tenant)
            if mine is None or theirs is None:
                problems.append(f"the index of runs {'lacks' if mine else 'invents'} tenant {tenant!r}")
            else:
                wrong = [name for name, ours, its in zip(_NAMES, mine, theirs, strict=True) if repr(ours) != repr(its)]
                if wrong:
                    problems.append(f"the index of runs does not say what the entries say of {', '.join(wrong)}")
        for what, first in (("node", self._nodes), ("tool", self._tools)):
            column = "node_id" if what == "node" else what
            rows = connection.execute(
                f"SELECT tenant_id, {column}, first_seq FROM run_{what}s WHERE run_id = ?",  # noqa: S608 - ours
                (self._run_id,),
            )
            if {(tenant, name): seq for tenant, name, seq in rows} != first:
                problems.append(f"the index of {what}s does not say what the entries say")
        return problems
