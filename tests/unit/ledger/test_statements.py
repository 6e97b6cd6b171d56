"""What a commit costs SQLite: statements that are planned once, and rows in as few statements as they take."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import cast

from meshflow.decision import Effect
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.sql.store import SqlStore
from meshflow.record import StageResult, StepRecord

RESULTS = (StageResult("policy_evaluation", "rego", Effect.ALLOW),)


async def step(ledger: ReplayLedger, number: int) -> None:
    step_id = f"step-{number}"
    await ledger.write_intent(Intent(run_id="run", step_id=step_id, node_id="node", input="asked", started_us=1))
    await ledger.write(
        StepRecord(
            run_id="run", node_id="node", step_id=step_id, started_us=1, input="asked", output="answered",
            reason="as it was", tool="search", results=RESULTS,
        )
    )  # fmt: skip


async def test_a_step_like_those_before_has_no_statement_planned_anew(tmp_path: Path) -> None:
    planned: list[tuple[object, ...]] = []

    def note(*what: object) -> int:
        planned.append(what)
        return sqlite3.SQLITE_OK

    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        await step(ledger, 0)
        connection = cast(SqlStore, ledger._store)._appender.open()
        assert isinstance(connection, sqlite3.Connection)
        connection.set_authorizer(note)  # is asked whenever a statement is planned, and has each one planned again
        await step(ledger, 1)
        assert planned
        planned.clear()
        for number in range(2, 12):
            await step(ledger, number)
        assert planned == []
        connection.set_authorizer(None)


async def test_rows_of_one_record_go_in_by_one_statement_a_table(tmp_path: Path) -> None:
    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        await step(ledger, 0)
        connection = cast(SqlStore, ledger._store)._appender.open()
        assert isinstance(connection, sqlite3.Connection)
        seen: list[str] = []
        connection.set_trace_callback(seen.append)
        await step(ledger, 1)
        connection.set_trace_callback(None)
    into = [text.split()[2] for text in seen if text.startswith("INSERT INTO")]
    assert sorted(into) == sorted(["entries", "payloads", "runs", "checkpoints"] * 2)
