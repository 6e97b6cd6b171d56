"""Somebody who owns the whole database, against the verifier of whole ledgers: found at its layer, named by step."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forgery import Attack, Entry, Forger, Place, Run, Where, assert_found, write_ledger

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.anchors import AnchorError, FileAnchor
from meshflow.ledger.format.checkpoints import Checkpoint, check_consistency, check_inclusion, read_checkpoint
from meshflow.ledger.format.notes import NoteError, Signer
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]
AT = "run_id = 'run-2' AND seq = 3"
ID = f"(SELECT id FROM entries WHERE {AT})"
TAIL = "run_id = 'run-2' AND seq = 7"


def at(seq: int, step_id: str | None = "") -> Entry:
    """An entry of the run that most is done to, by default of the step that was written there."""
    return Entry("run-2", seq, f"s{seq + 8}" if step_id == "" else step_id)


def sql(*statements: str) -> Attack:
    return lambda forger: forger.run(*statements)


def column(name: str, value: str) -> Attack:
    return sql(f"UPDATE entries SET {name} = {value} WHERE {AT}")


def then(*parts: Attack) -> Attack:
    def attack(forger: Forger) -> None:
        for part in parts:
            part(forger)

    return attack


def rewrite(forger: Forger) -> None:
    forger.rewrite("run-2", 3, tokens=999)


def cut_tail(forger: Forger) -> None:
    forger.drop_entries(TAIL)


def cut_ledger(forger: Forger) -> None:
    last = forger.one("SELECT max(id) FROM entries")
    forger.drop_entries(f"id > {last - 5}")


def delete_run(forger: Forger) -> None:
    forger.drop_entries("run_id = 'many-7'")


def invent_run(forger: Forger) -> None:
    last = forger.one("SELECT max(id) FROM entries")
    names = [row[1] for row in forger.db.execute("PRAGMA table_info(entries)")][2:]
    body = forger.one("SELECT body FROM entries WHERE run_id = 'many-7' AND seq = 0")
    forger.db.execute(
        f"INSERT INTO entries (id, run_id, {', '.join(names)}) SELECT {last + 1}, 'ghost', {', '.join(names)} "
        "FROM entries WHERE run_id = 'many-7' AND seq = 0"
    )
    forger.put("ghost", 0, body.replace(b'"run_id":"many-7"', b'"run_id":"ghost"'))
    for field in range(2):
        forger.db.execute(
            "INSERT INTO payloads SELECT ?, salt, data, NULL FROM payloads WHERE id = "
            f"(SELECT id * 16 + {field} FROM entries WHERE run_id = 'many-7' AND seq = 0)",
            ((last + 1) * 16 + field,),
        )
    forger.relink("ghost")


def swap_entries(forger: Forger) -> None:
    first = forger.one("SELECT id FROM entries WHERE run_id = 'many-1' AND seq = 1")
    second = forger.one("SELECT id FROM entries WHERE run_id = 'many-2' AND seq = 1")
    for table, scale in (("entries", 1), ("payloads", 16)):
        for old, new in ((first, -first), (second, first), (-first, second)):
            width = scale - 1
            forger.db.execute(
                f"UPDATE {table} SET id = id + ? WHERE id BETWEEN ? AND ?",
                ((new - old) * scale, old * scale, old * scale + width),
            )


def tile(column: str, value: str, level: int = 0) -> Attack:
    return sql(f"UPDATE tiles SET {column} = {value} WHERE level = {level} AND position = 0")


def flip_a_leaf(forger: Forger) -> None:
    hashes = bytearray(forger.one("SELECT hashes FROM tiles WHERE level = 0 AND position = 0"))
    hashes[32 * 5] ^= 1
    forger.db.execute("UPDATE tiles SET hashes = ? WHERE level = 0 AND position = 0", (bytes(hashes),))


def forge_signature(forger: Forger) -> None:
    note = forger.one("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
    size = forger.one("SELECT max(size) FROM checkpoints")
    thief = Signer.generate(read_checkpoint(note).origin)
    forger.db.execute("UPDATE checkpoints SET note = ? WHERE size = ?", (read_checkpoint(note).sign(thief), size))


def inflate_checkpoint(forger: Forger) -> None:
    note = forger.one("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
    old = read_checkpoint(note)
    bigger = Checkpoint(old.origin, old.size + 1, old.root)
    forger.db.execute(
        "INSERT INTO checkpoints VALUES (?, ?, 0, ?)", (bigger.size, old.root, bigger.sign(forger.stolen_key()))
    )


def corrupt_index(forger: Forger) -> None:
    """Take an entry out of an index, and not out of the table."""
    forger.db.execute("PRAGMA writable_schema = ON")
    root = forger.one("SELECT rootpage FROM sqlite_schema WHERE name = 'entries_place'")
    forger.db.execute("UPDATE sqlite_schema SET rootpage = 0 WHERE name = 'entries_place' AND 0")
    sql_text = forger.one("SELECT sql FROM sqlite_schema WHERE name = 'entries_place'")
    partial = sql_text + " WHERE seq <> 3"
    forger.db.execute("DROP INDEX entries_place")
    forger.db.execute(partial)
    forger.db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'entries_place'", (sql_text,))
    assert root


def swap_bodies(forger: Forger) -> None:
    body = "SELECT body FROM entries WHERE run_id = 'run-2' AND seq = ?"
    bodies = [(forger.one(body, 4), 3), (forger.one(body, 3), 4)]
    for moved, seq in bodies:
        forger.db.execute("UPDATE entries SET body = ? WHERE run_id = 'run-2' AND seq = ?", (moved, seq))


def new_key(forger: Forger) -> None:
    thief = Signer.generate(forger.one("SELECT origin FROM log"))
    forger.db.execute("DELETE FROM signers")
    forger.db.execute("INSERT INTO signers VALUES (1, ?, 0, '')", (str(thief.verifier),))
    forger.everything_again(thief)


def unnumbered(forger: Forger) -> None:
    forger.close_gaps()


def erase_silently(forger: Forger) -> None:
    forger.run(f"DELETE FROM payloads WHERE id = {ID} * 16")


def unerase(forger: Forger) -> None:
    erased = forger.one("SELECT id FROM entries WHERE run_id = 'many-3' AND seq = 2")
    forger.db.execute("INSERT INTO payloads SELECT ?, salt, data, NULL FROM payloads LIMIT 1", (erased * 16,))


ATTACKS: dict[str, tuple[Attack, str, Where]] = {
    **{
        f"edit column {name}": (column(name, value), layer, at(3, "other" if name == "step_id" else "s11"))
        for name, value, layer in (
            ("kind", "'intent'", "columns"), ("step_id", "'other'", "columns"), ("attempt", "9", "columns"),
            ("tenant_id", "'bolt'", "columns"), ("node_id", "'other'", "columns"), ("node_id", "NULL", "columns"),
            ("verdict", "'error'", "columns"), ("code", "'x.y'", "columns"), ("cost_micro_usd", "0", "columns"),
            ("tokens", "CAST(tokens AS TEXT) || 'x'", "columns"), ("tokens", "0", "columns"),
            ("started_us", "1", "columns"), ("duration_ns", "5", "columns"), ("approval_id", "'ap'", "columns"),
            ("step_index", "77", "places"), ("step_index", "NULL", "places"),
            ("prev_hash", "zeroblob(32)", "chain"), ("prev_hash", "zeroblob(31)", "chain"),
            ("entry_hash", "zeroblob(32)", "chain"), ("entry_hash", "'text'", "chain"),
            ("body", "CAST('{}' AS BLOB)", "chain"), ("body", "CAST(body AS TEXT)", "chain"),
            ("body", "CAST(replace(CAST(body AS TEXT), '\"tokens\":12', '\"tokens\":1.2e1') AS BLOB)", "chain"),
        )
    },
    "edit column seq": (column("seq", "77"), "chain", at(3, None)),
    "edit id": (sql(f"UPDATE entries SET id = 100000 WHERE {AT}"), "places", Place(492)),
    "move an entry far away": (sql(f"UPDATE entries SET id = 1 << 55 WHERE {AT}"), "places", Place(492)),
    "an entry before the first": (
        then(invent_run, sql("UPDATE entries SET id = -255 WHERE run_id = 'ghost'"), Forger.reindex),
        "places", "1 entries lie before the first place",
    ),
    "payloads of no entry": (
        sql("UPDATE payloads SET id = id + (1 << 40) WHERE id = 16"),
        "commitments", f"to place {(1 << 36) + 1}",
    ),
    "drop a middle entry": (lambda forger: forger.drop_entries(AT), "chain", at(3, None)),
    "swap two bodies": (swap_bodies, "chain", at(3)),
    "rewrite and relink": (rewrite, "merkle_log", at(3)),
    "rewrite and rebuild the log": (then(rewrite, Forger.reindex, Forger.rebuild_log), "checkpoint", at(3)),
    "rewrite and forget the checkpoints": (
        then(rewrite, Forger.reindex, Forger.rebuild_log, Forger.forget_checkpoints),
        "checkpoint", "not one checkpoint",
    ),
    "cut a tail": (then(cut_tail, Forger.reindex), "places", Place(560)),
    "cut a tail and number anew": (
        then(cut_tail, unnumbered, Forger.reindex, Forger.rebuild_log),
        "checkpoint", Place(560),
    ),
    "cut the ledger": (then(cut_ledger, Forger.reindex), "places", Place(556)),
    "cut the ledger and its log": (
        then(cut_ledger, Forger.reindex, Forger.rebuild_log),
        "checkpoint", "size 560: the log holds 555 entries",
    ),
    "delete a run": (then(delete_run, Forger.reindex), "places", Place(16)),
    "delete a run and number anew": (
        then(delete_run, unnumbered, Forger.reindex),
        "merkle_log", Entry("many-8", 0, "s8"),
    ),
    "delete a run and rebuild the log": (
        then(delete_run, unnumbered, Forger.reindex, Forger.rebuild_log),
        "checkpoint", Place(16),
    ),
    "invent a run": (then(invent_run, Forger.reindex), "merkle_log", Entry("ghost", 0, "s7")),
    "reorder two runs": (swap_entries, "merkle_log", Entry("many-1", 1, "s41")),
    "relabel a run": (sql("UPDATE entries SET run_id = 'x' WHERE run_id = 'many-8'"), "columns", Entry("x", 0, "s8")),
    "splice": (
        sql("UPDATE entries SET run_id = 'run-2', seq = 8, step_index = 7 WHERE run_id = 'many-9' AND seq = 11"),
        "chain", at(8, "s449"),
    ),
    "edit a payload": (sql(f"UPDATE payloads SET data = x'22' WHERE id = {ID} * 16"), "commitments", at(3)),
    "respell a payload": (
        sql(f"UPDATE payloads SET data = CAST(CAST(data AS TEXT) || ' ' AS BLOB) WHERE id = {ID} * 16"),
        "commitments", at(3),
    ),
    "edit a salt": (sql(f"UPDATE payloads SET salt = zeroblob(16) WHERE id = {ID} * 16"), "commitments", at(3)),
    "payload as text": (
        sql(f"UPDATE payloads SET data = CAST(data AS TEXT) WHERE id = {ID} * 16"),
        "commitments", at(3),
    ),
    "invent a payload": (
        sql(f"INSERT INTO payloads SELECT {ID} * 16 + 9, salt, data, NULL FROM payloads LIMIT 1"),
        "commitments", at(3),
    ),
    "erase silently": (erase_silently, "erasures", at(3)),
    "erase all payloads": (sql("DELETE FROM payloads"), "erasures", Entry("run-1", 0, "s0")),
    "put an erased payload back": (unerase, "erasures", "payload input of entry 2 was erased, and is there"),
    "drop a tombstone": (
        lambda forger: forger.run("DELETE FROM entries WHERE kind = 'erasure'"),
        "erasures", Entry("many-3", 2, "s83"),
    ),
    "edit a total": (sql("UPDATE runs SET cost_micro_usd = 1 WHERE run_id = 'run-2'"), "run_index", Run("run-2")),
    "hide a run": (sql("DELETE FROM runs WHERE run_id = 'run-2'"), "run_index", Run("run-2")),
    "invent a run in the index": (
        sql("INSERT INTO runs SELECT NULL, 'ghost', 'acme', 0, NULL, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1 FROM log"),
        "run_index", Run("ghost"),
    ),
    "edit a node": (
        sql("UPDATE run_nodes SET node_id = 'x' WHERE run_id = 'run-2' AND node_id = 'n1'"),
        "run_index", Run("run-2"),
    ),
    "hide a tool": (sql("DELETE FROM run_tools WHERE run_id = 'run-2' AND tool = 'mail'"), "run_index", at(1)),
    "invent a tool": (sql("INSERT INTO run_tools VALUES ('run-2', 'acme', 'fax', 3)"), "run_index", Run("run-2")),
    "move a tool's first call": (
        sql("UPDATE run_tools SET first_seq = 5 WHERE tool = 'mail'"),
        "run_index", Entry("run-1", 0, "s0"),
    ),
    "disown a fork": (
        sql("UPDATE runs SET parent_run_id = NULL, parent_steps = 0 WHERE run_id = 'fork'"),
        "run_index", Run("fork"),
    ),
    "rewrite what a fork inherits": (
        lambda forger: forger.rewrite("run-1", 3, tokens=1),
        "chain", Entry("fork", 0, ""),
    ),
    "flip a leaf of a tile": (flip_a_leaf, "merkle_log", Entry("run-1", 5, "s5")),
    "edit a tile's root": (tile("root", "zeroblob(32)"), "merkle_log", "tile 0/0"),
    "shorten a tile": (tile("hashes", "substr(hashes, 1, 32)"), "merkle_log", "tile 0/0"),
    "delete a tile": (sql("DELETE FROM tiles WHERE position = 1"), "merkle_log", "tile 0/1"),
    "invent a tile": (sql("INSERT INTO tiles SELECT 1, 0, root, hashes FROM tiles LIMIT 1"), "merkle_log", "tile 1/0"),
    "edit the frontier": (
        sql("UPDATE log SET frontier = zeroblob(length(frontier))"),
        "merkle_log", "the frontier of the log",
    ),
    "shrink the log": (
        sql("UPDATE log SET size = 256, frontier = substr(frontier, 1, 32)"),
        "merkle_log", "the log holds 256 entries, the ledger 560",
    ),
    "rename the log": (sql("UPDATE log SET origin = 'other'"), "checkpoint", "the checkpoint at size 560"),
    "lose the log": (sql("DELETE FROM log"), "merkle_log", "the row that describes the log"),
    "edit the root of an old checkpoint": (
        sql("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 3"),
        "checkpoint", "the checkpoint at size 3: its root",
    ),
    "edit the root of the newest checkpoint": (
        sql("UPDATE checkpoints SET root = zeroblob(32) WHERE size = (SELECT max(size) FROM checkpoints)"),
        "checkpoint", "the checkpoint at size 560",
    ),
    "edit the note of an old checkpoint": (
        sql("UPDATE checkpoints SET note = replace(note, char(10) || '3' || char(10), char(10) || '4' || char(10)) "
            "WHERE size = 3"),
        "checkpoint", "the checkpoint at size 3: its note",
    ),
    "sign with another key": (forge_signature, "checkpoint", "the checkpoint at size 560"),
    "sign more than there is": (inflate_checkpoint, "checkpoint", "the checkpoint at size 561"),
    "drop the newest signatures": (
        sql("DELETE FROM checkpoints WHERE size > 8", "DELETE FROM signers WHERE id > 1",
            "UPDATE checkpoints SET note = 'none' WHERE size = 8"),
        "checkpoint", "the checkpoint at size 8",
    ),
    "drop all checkpoints": (sql("DELETE FROM checkpoints"), "checkpoint", "not one checkpoint"),
    "edit a key": (
        sql("UPDATE signers SET verifier = replace(verifier, '+', '-') WHERE id = 1"), "checkpoint", "signing key 1",
    ),
    "edit a rotation": (
        sql("UPDATE signers SET since_size = since_size + 1 WHERE id = 2"),
        "checkpoint", "signing key 2",
    ),
    "drop a unique index": (lambda forger: forger.db.execute("DROP INDEX entries_key"), "storage", "index entries_key"),
    "index against table": (corrupt_index, "storage", "entries_place"),
}  # fmt: skip

UNDER_ANOTHER_HISTORY: dict[str, tuple[Attack, str]] = {
    "a stolen key signs a rewritten run": (then(rewrite, Forger.everything_again), "the first 560 entries"),
    "a stolen key signs a truncated ledger": (then(cut_ledger, Forger.everything_again), "holds 555 entries"),
    "a stolen key signs a ledger without a run": (
        then(delete_run, unnumbered, Forger.everything_again), "holds 548 entries",
    ),
    "a stolen key signs an invented run": (
        then(rewrite, invent_run, Forger.everything_again), "the first 560 entries",
    ),
    "another key signs it all": (new_key, "none of the keys given has signed"),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("ledger") / "runs.db"
    return path, asyncio.run(write_ledger(path))


@pytest.fixture
def attacked(written: tuple[Path, dict[str, str]], tmp_path: Path) -> Callable[..., Path]:
    def run(attack: Attack | None = None) -> Path:
        path, key = tmp_path / "copy.db", written[0].with_name("runs.db.key")
        shutil.copy(written[0], path)
        shutil.copy(key, tmp_path / "copy.db.key")
        if attack is not None:
            forger = Forger(path, key)
            attack(forger)
            forger.db.close()
        return path

    return run


@pytest.fixture
def held(written: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return written[1]


async def verify(path: Path, **more: Any) -> dict[str, Any]:
    async with ReplayLedger(path) as ledger:
        return await ledger.verify_ledger(**more)


async def test_the_ledger_under_attack_is_valid_before(attacked: Callable[..., Path], held: dict[str, str]) -> None:
    keys = held["keys"].splitlines()
    result = await verify(attacked(), since=[held["early"], held["old key"], held["late"]], keys=keys)
    assert (result["valid"], result["errors"]) == (True, [])
    assert (result["entries"], result["uncovered"], result["sealed_payloads"]) == (result["log_size"], 0, 0)
    assert result["held_size"] == read_checkpoint(held["late"]).size
    assert result["not_checked"] == ["anchor", "witness"]
    assert result["keys_from_outside"]
    alone = await verify(attacked())
    assert alone["valid"]
    assert alone["not_checked"] == ["anchor", "held_checkpoint", "witness"]
    for processes in (1, 2):
        assert (await verify(attacked(), processes=processes))["valid"]


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_tampering_is_found_at_its_layer_and_named(name: str, attacked: Callable[..., Path]) -> None:
    attack, layer, where = ATTACKS[name]
    assert_found(await verify(attacked(attack), processes=1), layer, where)


@pytest.mark.parametrize("name", UNDER_ANOTHER_HISTORY)
async def test_a_history_signed_anew_is_found_by_a_checkpoint_from_outside(
    name: str, attacked: Callable[..., Path], held: dict[str, str]
) -> None:
    attack, text = UNDER_ANOTHER_HISTORY[name]
    path = attacked(attack)
    keys = held["keys"].splitlines()
    alone = await verify(path)
    assert "held_checkpoint" in alone["not_checked"]
    assert_found(await verify(path, since=held["late"], keys=keys), "held_checkpoint", text)
    async with ReplayLedger(path) as ledger:
        chain = await ledger.verify_chain("run-1", checkpoint=held["late"], keys=keys)
    assert_found(chain, "held_checkpoint", text)


async def test_a_stolen_key_deceives_who_holds_no_checkpoint(attacked: Callable[..., Path]) -> None:
    """The limit that the documentation states; were it found alone, the test above would prove nothing."""
    forged = then(rewrite, lambda forger: forger.rewrite("fork", 0), Forger.everything_again)
    result = await verify(attacked(forged))
    assert (result["valid"], result["held_size"]) == (True, None)


async def test_an_old_copy_put_back_is_found_by_a_checkpoint_from_outside(tmp_path: Path, record: MakeRecord) -> None:
    path, backup = tmp_path / "runs.db", tmp_path / "backup.db"
    async with ReplayLedger(path) as ledger:
        await ledger.write(record(0))
        source, target = sqlite3.connect(path), sqlite3.connect(backup)
        source.backup(target)
        source.close()
        target.close()
        await ledger.write(record(1))
        note = await ledger.checkpoint()
    shutil.copy(path.with_name("runs.db.key"), tmp_path / "backup.db.key")
    assert (await verify(backup))["valid"]
    result = await verify(backup, since=note)
    assert [finding["layer"] for finding in result["findings"]] == ["held_checkpoint"]
    assert "an older copy" in result["errors"][0]
    async with ReplayLedger(backup) as rolled_back:
        await rolled_back.write(record(5))
        await rolled_back.write(record(6))
    assert "another history" in (await verify(backup, since=note))["errors"][0]


async def test_two_auditors_shown_two_histories_find_out_when_they_compare(tmp_path: Path, record: MakeRecord) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    async with ReplayLedger(one) as ledger:
        await ledger.write(record(0))
        common = await ledger.checkpoint()
        keys = await ledger.verifiers()
    shutil.copy(one, two)
    shutil.copy(tmp_path / "one.db.key", tmp_path / "two.db.key")
    notes = []
    for path, extra in ((one, 1), (two, 2)):
        async with ReplayLedger(path) as ledger:
            for number in range(3):
                await ledger.write(record(10 * extra + number))
            notes.append(await ledger.checkpoint())
            if path is two:
                await ledger.write(record(99))
            proof = await ledger.prove_consistency(1)
            check_consistency(common, proof["checkpoint"], proof["path"], keys)
        assert (await verify(path, since=common, keys=keys))["valid"]
        assert (await verify(path, since=notes[-1], keys=keys))["valid"]
    async with ReplayLedger(two) as ledger:
        proof = await ledger.prove_consistency(read_checkpoint(notes[0]).size)
    with pytest.raises(LedgerError, match="does not begin with"):
        check_consistency(notes[0], proof["checkpoint"], proof["path"], keys)
    assert not (await verify(two, since=notes[0], keys=keys))["valid"]
    assert not (await verify(one, since=notes[1], keys=keys))["valid"]


async def test_inclusion_proofs_hold_and_change_with_nothing(attacked: Callable[..., Path]) -> None:
    async with ReplayLedger(attacked()) as ledger:
        keys = await ledger.verifiers()
        for run, seq in (("run-1", 0), ("many-5", 7), ("late-4", 11), ("run-2", 7)):
            proof = await ledger.prove(run, seq)
            assert check_inclusion(proof, keys).size == proof["tree_size"]
            body = proof["entry"]["body"]
            for change in (
                {"run_id": "other"}, {"seq": seq + 1}, {"leaf_index": proof["leaf_index"] ^ 1},
                {"path": proof["path"][1:]},
                {"entry": proof["entry"] | {"body": body.replace('"tokens":12', '"tokens":13')}}, {"origin": "other"},
                {"entry": proof["entry"] | {"prev_hash": "00" * 32}}, {"checkpoint": proof["checkpoint"] + "x"},
            ):  # fmt: skip
                with pytest.raises(LedgerError):
                    check_inclusion(proof | change, keys)
        with pytest.raises(NoteError):
            check_inclusion(proof, [str(Signer.generate("thief").verifier)])
        assert (await ledger.prove("run-1", step_index=7))["seq"] == 7
        for wrong in ({"seq": 1, "step_index": 1}, {}):
            with pytest.raises(LedgerError, match="one of them alone"):
                await ledger.prove("run-1", **wrong)
        with pytest.raises(LedgerError, match="no entry"):
            await ledger.prove("run-1", 0, tenant="bolt")


async def test_a_ledger_that_lost_its_entries_signs_nothing_more(
    attacked: Callable[..., Path], record: MakeRecord
) -> None:
    for attack in (cut_ledger, then(cut_ledger, Forger.rebuild_log), then(rewrite, Forger.rebuild_log)):
        path = attacked(attack)
        async with ReplayLedger(path) as ledger:
            with pytest.raises(LedgerError, match=r"[kK]eep it as it is"):
                await ledger.write(record(0, run_id="new"))


async def test_only_the_layers_asked_for_are_looked_at(attacked: Callable[..., Path]) -> None:
    path = attacked(ATTACKS["edit a payload"][0])
    result = await verify(path, layers=["chain", "merkle_log"])
    assert result["valid"]
    assert {"commitments", "columns", "erasures"} <= set(result["not_checked"])
    with pytest.raises(LedgerError, match="no layers"):
        await verify(path, layers=["everything"])


async def test_progress_is_told_in_the_loop(attacked: Callable[..., Path]) -> None:
    seen: list[tuple[int, int]] = []
    result = await verify(attacked(), progress=lambda done, total: seen.append((done, total)))
    await asyncio.sleep(0)
    assert seen[-1] == (result["entries"], result["entries"])


async def test_one_tenant_cannot_verify_all(attacked: Callable[..., Path]) -> None:
    async with ReplayLedger(attacked(), tenant="acme") as ledger:
        with pytest.raises(LedgerError, match="one tenant"):
            await ledger.verify_ledger()
        assert (await ledger.verify_chain("run-1"))["valid"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"erased":[1]}', b"\xff"])
async def test_a_tombstone_without_its_form_is_found_and_stops_nothing(
    attacked: Callable[..., Path], body: bytes
) -> None:
    path = attacked(sql(f"UPDATE entries SET body = x'{body.hex()}' WHERE kind = 'erasure'"))
    async with ReplayLedger(path, key=None) as ledger:
        assert not (await ledger.verify_ledger())["valid"]
        assert not (await ledger.verify_ledger(layers=["commitments"]))["valid"]


async def test_no_tenant_hears_of_the_runs_of_another(attacked: Callable[..., Path]) -> None:
    path = attacked(then(rewrite, Forger.reindex, Forger.rebuild_log))
    async with ReplayLedger(path, key=None) as ledger:
        told = await ledger.verify_chain("late-1", tenant="bolt")
        assert not told["valid"]
        assert "run-2" in str(await ledger.verify_ledger())
    assert all(finding["run_id"] in (None, "late-1") for finding in told["findings"])
    assert "s11" not in str(told)


@pytest.mark.parametrize("damage", ["note = replace(note, 'a', 'b')", "root = zeroblob(32)"])
async def test_a_damaged_checkpoint_accuses_no_entry(attacked: Callable[..., Path], damage: str) -> None:
    newest = "size = (SELECT max(size) FROM checkpoints)"
    async with ReplayLedger(attacked(sql(f"UPDATE checkpoints SET {damage} WHERE {newest}")), key=None) as ledger:
        found = (await ledger.verify_ledger())["findings"]
    assert found
    assert {(finding["layer"], finding["run_id"], finding["step_id"]) for finding in found} == {
        ("checkpoint", None, None)
    }
    assert "no entry" not in str(found)


async def test_an_anchor_holds_what_the_ledger_forgot(
    attacked: Callable[..., Path], tmp_path: Path, record: MakeRecord
) -> None:
    path = attacked()
    anchor = FileAnchor(tmp_path / "elsewhere.jsonl")
    async with ReplayLedger(path) as ledger:
        before = await ledger.verify_ledger(anchors=[anchor])
        assert (before["valid"], before["anchors"]) == (True, {anchor.name: {"compared": 0, "newest": None}})
        assert "anchor" in before["not_checked"]
        await ledger.anchor(anchor)
        result = await ledger.verify_ledger(anchors=[anchor])
        assert (result["valid"], result["anchors"][anchor.name]["compared"]) == (True, 1)
        assert "anchor" in result["checked"]
    forger = Forger(path, path.with_name("copy.db.key"))
    then(cut_ledger, Forger.everything_again)(forger)
    forger.db.close()
    async with ReplayLedger(path) as ledger:
        assert not (await ledger.verify_ledger(anchors=[anchor]))["valid"]
        with pytest.raises(AnchorError, match="contradicts"):
            await ledger.anchor(anchor)
