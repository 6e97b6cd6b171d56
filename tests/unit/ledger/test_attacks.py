"""Someone with write access to the database, against the verifier; and honest histories, which must always verify."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from forgery import Entry, Place, Run, Where, assert_found, look

from meshflow.clock import ManualClock
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.format.chain import entry_hash, genesis_hash
from meshflow.ledger.sqlite.migrate import sum_runs
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]
Attack = Callable[[sqlite3.Connection], object]
HELD = "(SELECT id FROM entries WHERE run_id = 'run-1' AND seq = 3)"


def at(seq: int, step_id: str | None = "") -> Entry:
    """Where a tampering is to be found: an entry of the run, by default of the step that was written there."""
    return Entry("run-1", seq, f"s{seq}" if step_id == "" else step_id)


def sql(*statements: str) -> Attack:
    def attack(db: sqlite3.Connection) -> None:
        for statement in statements:
            assert db.execute(statement).rowcount != 0, statement

    return attack


def column(name: str, value: str) -> Attack:
    return sql(f"UPDATE entries SET {name} = {value} WHERE run_id = 'run-1' AND seq = 3")


def flip_a_body_byte(db: sqlite3.Connection) -> None:
    (body,) = db.execute("SELECT body FROM entries WHERE run_id = 'run-1' AND seq = 3").fetchone()
    for place in range(0, len(body), 97):
        changed = bytearray(body)
        changed[place] ^= 1
        db.execute("UPDATE entries SET body = ? WHERE run_id = 'run-1' AND seq = 3", (bytes(changed),))


def respell_the_body(db: sqlite3.Connection) -> None:
    (body,) = db.execute("SELECT body FROM entries WHERE run_id = 'run-1' AND seq = 3").fetchone()
    spaced = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2)
    db.execute("UPDATE entries SET body = ? WHERE run_id = 'run-1' AND seq = 3", (spaced,))


def rehash_one_entry(db: sqlite3.Connection) -> None:
    """Edit the body and its column and set the right hash, but leave the next entry's prev_hash."""
    run_id, seq, prev, body = db.execute(
        "SELECT run_id, seq, prev_hash, body FROM entries WHERE run_id = 'run-1' AND seq = 3"
    ).fetchone()
    changed = body.replace(b'"cost_micro_usd":1500', b'"cost_micro_usd":1')
    assert changed != body
    db.execute(
        "UPDATE entries SET body = ?, cost_micro_usd = 1, entry_hash = ? WHERE run_id = 'run-1' AND seq = 3",
        (changed, entry_hash(run_id, seq, prev, changed)),
    )


def swap_places(db: sqlite3.Connection) -> None:
    for old, new in ((3, 99), (4, 3), (99, 4)):
        db.execute("UPDATE entries SET seq = ? WHERE run_id = 'run-1' AND seq = ?", (new, old))


def splice_from_another_run(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM entries WHERE run_id = 'run-1' AND seq = 5")
    db.execute("UPDATE entries SET run_id = 'run-1', seq = 5, step_index = 5 WHERE run_id = 'run-2' AND seq = 0")


def swap_payloads(db: sqlite3.Connection) -> None:
    first, second = (
        db.execute("SELECT id * 16 FROM entries WHERE run_id = 'run-1' AND seq = ?", (seq,)).fetchone()[0]
        for seq in (3, 4)
    )
    for old, new in ((first, -1), (second, first), (-1, second)):
        db.execute("UPDATE payloads SET id = ? WHERE id = ?", (new, old))


def forge_a_tombstone_in_the_body_of_a_step(db: sqlite3.Connection) -> None:
    db.execute(f"DELETE FROM payloads WHERE id = {HELD} * 16")
    db.execute("UPDATE entries SET kind = 'erasure' WHERE run_id = 'run-1' AND seq = 5")


def resalt(db: sqlite3.Connection) -> None:
    db.execute(f"UPDATE payloads SET salt = ? WHERE id = {HELD} * 16", (os.urandom(16),))


ATTACKS: dict[str, tuple[Attack, str, Where]] = {
    "edit step_id": (column("step_id", "'other'"), "columns", at(3, "other")),
    "edit kind": (column("kind", "'intent'"), "columns", at(3)),
    "edit attempt": (column("attempt", "7"), "columns", at(3)),
    "edit tenant_id": (column("tenant_id", "'bolt'"), "columns", at(3)),
    "edit node_id": (column("node_id", "'other'"), "columns", at(3)),
    "null node_id": (column("node_id", "NULL"), "columns", at(3)),
    "edit verdict": (column("verdict", "'reject'"), "columns", at(3)),
    "edit code": (column("code", "'x.y'"), "columns", at(3)),
    "edit cost": (column("cost_micro_usd", "0"), "columns", at(3)),
    "edit tokens": (column("tokens", "0"), "columns", at(3)),
    "respell tokens": (column("tokens", "CAST(12 AS BLOB)"), "columns", at(3)),
    "edit started_us": (column("started_us", "1"), "columns", at(3)),
    "edit duration_ns": (column("duration_ns", "1"), "columns", at(3)),
    "edit approval_id": (column("approval_id", "'ap'"), "columns", at(3)),
    "edit seq": (column("seq", "77"), "chain", at(3, None)),
    "edit step_index": (column("step_index", "77"), "places", at(3)),
    "lose step_index": (column("step_index", "NULL"), "places", at(3)),
    "edit totals": (sql("UPDATE runs SET cost_micro_usd = 0 WHERE run_id = 'run-1'"), "run_index", Run("run-1")),
    "edit verdict counts": (
        sql("UPDATE runs SET commits = 0, rejects = 6 WHERE run_id = 'run-1'"),
        "run_index", Run("run-1"),
    ),
    "hide a node": (sql("DELETE FROM run_nodes WHERE run_id = 'run-1'"), "run_index", Run("run-1")),
    "invent a parent": (
        sql("UPDATE runs SET parent_run_id = 'run-2', parent_steps = 0 WHERE run_id = 'run-1'"),
        "run_index", Run("run-1"),
    ),
    "edit id": (column("id", "1000"), "places", at(4)),
    "edit the last id": (
        sql("UPDATE entries SET id = 1000 WHERE id = (SELECT max(id) FROM entries)"),
        "places", Place(9),
    ),
    "edit prev_hash": (column("prev_hash", "zeroblob(32)"), "chain", at(3)),
    "edit entry_hash": (column("entry_hash", "zeroblob(32)"), "chain", at(3)),
    "text as hash": (column("entry_hash", "'x'"), "chain", at(3)),
    "flip body bytes": (flip_a_body_byte, "chain", at(3)),
    "empty body": (column("body", "x''"), "chain", at(3)),
    "body of another shape": (column("body", "CAST('[1]' AS BLOB)"), "chain", at(3)),
    "respell body": (respell_the_body, "chain", at(3)),
    "rehash one entry": (rehash_one_entry, "chain", at(4)),
    "drop the first": (sql("DELETE FROM entries WHERE run_id = 'run-1' AND seq = 0"), "chain", at(0, None)),
    "drop a middle entry": (sql("DELETE FROM entries WHERE run_id = 'run-1' AND seq = 3"), "chain", at(3, None)),
    "drop and renumber": (
        sql(
            "DELETE FROM entries WHERE run_id = 'run-1' AND seq = 3",
            "UPDATE entries SET seq = seq - 1 WHERE run_id = 'run-1' AND seq > 3",
        ),
        "chain", at(3, "s4"),
    ),
    "reorder": (swap_places, "chain", at(3, "s4")),
    "duplicate an entry": (
        sql(
            "DROP INDEX entries_key",
            "INSERT INTO entries SELECT 5000, run_id, 8, NULL, kind, step_id, attempt, tenant_id, node_id, verdict, "
            "code, cost_micro_usd, tokens, started_us, duration_ns, approval_id, prev_hash, entry_hash, body "
            "FROM entries WHERE run_id = 'run-1' AND seq = 3",
        ),
        "chain", at(8, "s3"),
    ),
    "duplicate in place": (
        sql(
            "DROP INDEX entries_key",
            "DROP INDEX entries_place",
            "INSERT INTO entries SELECT 5000, run_id, seq, NULL, kind, step_id, attempt, tenant_id, node_id, verdict, "
            "code, cost_micro_usd, tokens, started_us, duration_ns, approval_id, prev_hash, entry_hash, body "
            "FROM entries WHERE run_id = 'run-1' AND seq = 3",
        ),
        "keys", at(3),
    ),
    "splice": (splice_from_another_run, "chain", at(5, "s9")),
    "edit a payload": (
        sql(f"UPDATE payloads SET data = CAST('\"forged\"' AS BLOB) WHERE id = {HELD} * 16"),
        "commitments", at(3),
    ),
    "append to a payload": (
        sql(f"UPDATE payloads SET data = CAST(data || ' ' AS BLOB) WHERE id = {HELD} * 16"),
        "commitments", at(3),
    ),
    "payload as text": (
        sql(f"UPDATE payloads SET data = CAST(data AS TEXT) WHERE id = {HELD} * 16"),
        "commitments", at(3),
    ),
    "new salt": (resalt, "commitments", at(3)),
    "short salt": (sql(f"UPDATE payloads SET salt = x'00' WHERE id = {HELD} * 16"), "commitments", at(3)),
    "delete a payload": (sql(f"DELETE FROM payloads WHERE id = {HELD} * 16"), "erasures", at(3)),
    "delete all payloads": (sql("DELETE FROM payloads"), "erasures", at(0)),
    "swap payloads": (swap_payloads, "commitments", at(3)),
    "invent a payload": (
        sql(f"INSERT INTO payloads SELECT {HELD} * 16 + 7, salt, data, NULL FROM payloads LIMIT 1"),
        "commitments", at(3),
    ),
    "invent an odd payload": (
        sql(f"INSERT INTO payloads SELECT {HELD} * 16 + 15, salt, data, 0 FROM payloads LIMIT 1"),
        "commitments", at(3),
    ),
    "call a deletion an erasure": (forge_a_tombstone_in_the_body_of_a_step, "erasures", at(3)),
    "hide a tool": (sql("DELETE FROM run_tools WHERE run_id = 'run-1'"), "run_index", Run("run-1")),
    "invent a tool": (sql("INSERT INTO run_tools VALUES ('run-1', 'acme', 'fax', 3)"), "run_index", Run("run-1")),
    "hide the run": (sql("DELETE FROM runs WHERE run_id = 'run-1'"), "run_index", Run("run-1")),
    "give the run away": (sql("UPDATE runs SET tenant_id = 'bolt' WHERE run_id = 'run-1'"), "run_index", Run("run-1")),
    "move its beginning": (sql("UPDATE runs SET first_seq = 2 WHERE run_id = 'run-1'"), "run_index", Run("run-1")),
    "delete another run": (sql("DELETE FROM entries WHERE run_id = 'run-2'"), "places", Place(7)),
    "reopen a closed run": (
        sql("DELETE FROM entries WHERE run_id = 'run-1' AND kind = 'close'"),
        "run_index", at(6, None),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two runs; attacks work on copies of it."""
    path = tmp_path_factory.mktemp("ledger") / "runs.db"

    async def fill() -> None:
        async with ReplayLedger(path, clock=ManualClock()) as ledger:
            for number in range(6):
                base = {
                    "run_id": "run-1", "node_id": "n", "step_id": f"s{number}", "tenant_id": "acme", "cost_usd": 0.0015,
                    "tokens": 12, "input_task": f"q{number}", "output_content": "a", "tool": "mail",
                }  # fmt: skip
                await ledger.write(base)
            await ledger.write({"run_id": "run-2", "node_id": "n", "step_id": "s9", "tenant_id": "acme"})
            await ledger.close_run("run-1")
            await ledger.write({"run_id": "run-2", "node_id": "n", "step_id": "s10", "tenant_id": "acme"})

    asyncio.run(fill())
    return path


@pytest.fixture
def attacked(written: Path, tmp_path: Path) -> Callable[[Attack], Path]:
    def run(attack: Attack) -> Path:
        path = tmp_path / "copy.db"
        source, db = sqlite3.connect(written), sqlite3.connect(path)
        source.backup(db)
        source.close()
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        attack(db)
        db.commit()
        db.close()
        return path

    return run


async def test_the_file_under_attack_is_valid_before(attacked: Callable[[Attack], Path]) -> None:
    async with ReplayLedger(attacked(lambda db: None)) as ledger:
        result = await ledger.verify_chain("run-1")
    assert (result["valid"], result["state"], result["steps_verified"], result["errors"]) == (True, "closed", 6, [])


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_tampering_is_found_at_its_layer_and_named(name: str, attacked: Callable[[Attack], Path]) -> None:
    attack, layer, where = ATTACKS[name]
    async with ReplayLedger(attacked(attack)) as ledger:
        assert_found(await ledger.verify_chain("run-1"), layer, where)


async def test_a_relabelled_run_is_found_under_either_name(attacked: Callable[[Attack], Path]) -> None:
    relabel = sql(
        "UPDATE entries SET run_id = 'run-3' WHERE run_id = 'run-1'",
        "UPDATE runs SET run_id = 'run-3' WHERE run_id = 'run-1'",
    )
    async with ReplayLedger(attacked(relabel)) as ledger:
        assert (await ledger.verify_chain("run-1"))["state"] == "unknown"
        assert not (await ledger.verify_chain("run-1"))["valid"]
        assert not (await ledger.verify_chain("run-3"))["valid"]


async def test_errors_name_the_entry(attacked: Callable[[Attack], Path]) -> None:
    async with ReplayLedger(attacked(column("tokens", "0"))) as ledger:
        result = await ledger.verify_chain("run-1")
    assert result["errors"] == ["entry 3 (step 's3'): column tokens does not say what the body says"]
    assert result["steps_verified"] == 5


def reindex(db: sqlite3.Connection) -> None:
    """Make the index of runs say what the entries say."""
    db.execute("DELETE FROM runs")
    db.execute("DELETE FROM run_nodes")
    db.execute("DELETE FROM run_tools")
    db.execute(
        "CREATE VIEW runs_1 AS SELECT min(id) id, run_id, tenant_id, min(seq) first_seq FROM entries GROUP BY 2, 3"
    )
    sum_runs(db)
    db.execute("DROP VIEW runs_1")


def cut_the_tail(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM payloads WHERE id / 16 = (SELECT max(id) FROM entries)")
    db.execute("DELETE FROM entries WHERE id = (SELECT max(id) FROM entries)")
    reindex(db)


def rewrite_and_relink(db: sqlite3.Connection) -> None:
    previous = genesis_hash("run-2")
    for seq, body in db.execute("SELECT seq, body FROM entries WHERE run_id = 'run-2' ORDER BY seq").fetchall():
        document = orjson.loads(body) | {"node_id": "forged"}
        changed = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        digest = entry_hash("run-2", seq, previous, changed)
        db.execute(
            "UPDATE entries SET node_id = 'forged', body = ?, prev_hash = ?, entry_hash = ? "
            "WHERE run_id = 'run-2' AND seq = ?",
            (changed, previous, digest, seq),
        )
        previous = digest
    reindex(db)


@pytest.mark.parametrize("attack", [cut_the_tail, rewrite_and_relink])
async def test_what_the_chain_cannot_find_the_log_finds(attack: Attack, attacked: Callable[[Attack], Path]) -> None:
    async with ReplayLedger(attacked(attack)) as ledger:
        result = await ledger.verify_chain("run-2")
    assert (result["valid"], result["state"]) == (False, "open")
    assert {finding["layer"] for finding in result["findings"]} <= {"merkle_log", "checkpoint"}


def test_triggers_refuse_edits_and_deletions(written: Path) -> None:
    db = sqlite3.connect(written)
    changes = [f"UPDATE {table} SET id = 99" for table in ("entries", "payloads", "runs")]
    deletions = [f"DELETE FROM {table}" for table in ("entries", "payloads", "runs")]
    for statement in changes + deletions:
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(statement)
    db.close()


async def honest_many_writers(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await asyncio.gather(*(ledger.write(record(number)) for number in range(200)))


async def honest_restart(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(3):
        async with ReplayLedger(ledger.place) as again:
            await again.write(record(number))


async def honest_two_ledgers_taking_turns(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    async with ReplayLedger(ledger.place) as other:
        for number in range(10):
            await (ledger, other)[number % 2].write(record(number))


async def honest_approval_and_resume(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.decide_approval("ap-1", approve=True, approver="bob", reason="fine")
    await ledger.write_intent(Intent(run_id="run-1", step_id="step-0", node_id="n", attempt=2, approval_id="ap-1"))
    await ledger.write(record(0, attempt=2, approval_id="ap-1"))


async def honest_erasure_then_more(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0))
    await ledger.erase_payloads("run-1", fields=["input", "principal"], reason="request", authority="dpo")
    await ledger.write(record(1))
    await ledger.erase_payloads("run-1", reason="request", authority="dpo")


async def honest_erasure_after_close(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0))
    await ledger.close_run("run-1")
    await ledger.erase_payloads("run-1", reason="retention", authority="policy")


async def honest_two_tenants_in_a_run(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0, tenant_id="default", verdict=Verdict.REJECT, code="identity_verification.missing"))
    await ledger.write(record(1))
    await ledger.write(record(2, tenant_id="bolt"))


async def honest_retries_and_conflicts(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await asyncio.gather(*(ledger.write(record(n % 4, tokens=n % 8)) for n in range(40)), return_exceptions=True)
    await ledger.write(record(0, attempt=2))


async def honest_odd_names(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0, node_id="\U0001f600 \u2028 '; DROP TABLE entries; --", step_id="\x00", tool="\u00e9"))
    await ledger.write(record(1, step_id="e\u0301"))
    await ledger.write(record(1, step_id="\u00e9"))


async def honest_nothing_but_the_minimum(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(StepRecord(run_id="run-1", node_id="n"))


async def honest_vacuum(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0))
    look(ledger.place, "VACUUM")
    await ledger.write(record(1))


HONEST = [value for name, value in sorted(globals().items()) if name.startswith("honest_")]


@pytest.mark.parametrize("history", HONEST, ids=lambda history: history.__name__)
async def test_an_honest_history_verifies(
    history: Callable[..., object], ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord
) -> None:
    await history(ledger, record, escalated)  # type: ignore[misc]
    result = await ledger.verify_chain("run-1")
    assert result["errors"] == []
    assert result["valid"]
    assert result["steps_verified"] == len(await ledger.get_run("run-1"))


async def test_an_independent_reading_of_the_format_agrees(ledger: ReplayLedger, record: MakeRecord) -> None:
    """Written from the docstring of ``chain`` alone, with nothing of the package."""
    for number in range(3):
        await ledger.write(record(number))
    await ledger.aclose()

    def field(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    previous = hashlib.sha256(b"meshflow/genesis/v1\0" + field(b"run-1")).digest()
    for entry_id, seq, prev, digest, body in look(
        ledger.place, "SELECT id, seq, prev_hash, entry_hash, body FROM entries ORDER BY seq"
    ):
        assert prev == previous
        framed = b"meshflow/entry/v1\0" + field(b"run-1") + seq.to_bytes(8, "big") + field(prev) + field(body)
        assert hashlib.sha256(framed).digest() == digest
        previous = digest
        ((salt, data),) = look(ledger.place, f"SELECT salt, data FROM payloads WHERE id = {entry_id * 16}")
        committed = hashlib.sha256(b"meshflow/payload/v1\0" + salt + data).hexdigest()
        assert orjson.loads(body)["commitments"]["input"] == committed
