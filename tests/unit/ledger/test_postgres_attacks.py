"""What somebody who owns the database does to a ledger in PostgreSQL is found, at the same layers as in a file."""

from __future__ import annotations

import pytest
from forgery import look

from meshflow.ledger import ReplayLedger

from .conftest import MakeRecord

KINDS = ("postgres",)
STEP = "run_id = 'run-1' AND seq = 2"

ATTACKS = {
    "edit a body": (f"UPDATE entries SET body = overlay(body PLACING '9' FROM 40) WHERE {STEP}", "chain"),
    "edit a column": (f"UPDATE entries SET tokens = 1 WHERE {STEP}", "columns"),
    "give an entry another time": (f"UPDATE entries SET started_us = started_us + 1 WHERE {STEP}", "columns"),
    "let a blocked step commit": ("UPDATE entries SET verdict = 'commit' WHERE verdict = 'reject'", "columns"),
    "take an entry out": (f"DELETE FROM entries WHERE {STEP}", "chain"),
    "cut off the tail": ("DELETE FROM entries WHERE id = (SELECT max(id) FROM entries)", "merkle_log"),
    "delete a run": ("DELETE FROM entries WHERE run_id = 'run-1'", "merkle_log"),
    "swap two entries": (
        "UPDATE entries e SET body = o.body FROM entries o WHERE e.run_id = 'run-1' AND o.run_id = 'run-1' "
        "AND (e.seq, o.seq) IN ((1, 2), (2, 1))", "chain",
    ),
    "splice an entry in": (
        "UPDATE entries e SET body = o.body, entry_hash = o.entry_hash FROM entries o "
        "WHERE e.run_id = 'run-1' AND e.seq = 2 AND o.run_id = 'run-2' AND o.seq = 1", "chain",
    ),
    "edit a payload": (
        "UPDATE payloads SET data = '\"forged\"' WHERE id = (SELECT min(id) FROM payloads)", "commitments",
    ),
    "edit a salt": (
        "UPDATE payloads SET salt = overlay(salt PLACING 'x' FROM 1) WHERE id = (SELECT min(id) FROM payloads)",
        "commitments",
    ),
    "take a payload away": ("DELETE FROM payloads WHERE id = (SELECT min(id) FROM payloads)", "erasures"),
    "swap two payloads": (
        "UPDATE payloads p SET data = o.data, salt = o.salt FROM payloads o "
        "WHERE p.id = (SELECT min(id) FROM payloads) AND o.id = (SELECT max(id) FROM payloads)", "commitments",
    ),
    "edit a total": ("UPDATE runs SET cost_micro_usd = 1 WHERE run_id = 'run-1'", "run_index"),
    "take a node away": ("DELETE FROM run_nodes WHERE run_id = 'run-1' AND node_id = 'node-1'", "run_index"),
    "hide a run": ("DELETE FROM runs WHERE run_id = 'run-1'", "run_index"),
    "edit the frontier": ("UPDATE log SET frontier = overlay(frontier PLACING 'x' FROM 1)", "merkle_log"),
    "take the newest checkpoint's root": (
        "UPDATE checkpoints SET root = overlay(root PLACING 'x' FROM 1) "
        "WHERE size = (SELECT max(size) FROM checkpoints)", "checkpoint",
    ),
    "take all checkpoints away": ("DELETE FROM checkpoints", "checkpoint"),
    "put another key in": ("UPDATE signers SET verifier = replace(verifier, '+', '-')", "checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_tampering_in_the_server_is_found_at_its_layer(
    name: str, ledger: ReplayLedger, record: MakeRecord, place: str
) -> None:
    for number in range(6):
        await ledger.write(record(number))
        await ledger.write(record(number, run_id="run-2", output=f"other {number}"))
    await ledger.write(record(7, verdict="reject", code="budget_check.exhausted"))
    held, keys = await ledger.checkpoint(), await ledger.verifiers()
    before = await ledger.verify_ledger(keys=keys, since=held)
    assert (before["valid"], before["errors"]) == (True, [])
    statement, layer = ATTACKS[name]
    look(place, statement)
    after = await ledger.verify_ledger(keys=keys, since=held)
    assert not after["valid"]
    assert layer in {finding["layer"] for finding in after["findings"]}, after["findings"]
