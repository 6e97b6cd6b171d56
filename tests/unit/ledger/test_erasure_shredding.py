"""Payloads under wrapped data keys: read with the key, verified as far as can be without it, shredded with it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from forgery import look

from meshflow.errors import ConfigError, LedgerConflictError, LedgerError
from meshflow.facts import Principal
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.shredding import LockedError, WrappingKey, open_payload, seal_payload, wrapping_key
from meshflow.plugin import Host
from meshflow_ledger import LedgerPlugin, LedgerSettings

from .conftest import MakeRecord

NEEDLE = "a-very-recognisable-secret"


def key_file(folder: Path, byte: int = 7, name: str = "kek") -> str:
    path = folder / name
    path.write_text(base64.b64encode(bytes([byte]) * 32).decode() + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def kek(tmp_path: Path) -> str:
    return key_file(tmp_path)


def keys_in(place: str | Path) -> list[str]:
    return [row[0] for row in look(place, "SELECT name FROM keys ORDER BY id")]


@pytest.mark.parametrize("scope", ["run", "subject"])
async def test_what_is_written_under_a_key_reads_and_verifies_with_it(
    place: str | Path, kek: str, record: MakeRecord, escalated: MakeRecord, scope: str
) -> None:
    async with ReplayLedger(place, encrypt=scope, key_encryption_key=kek) as ledger:
        first = await ledger.write(record(0, input=NEEDLE))
        assert await ledger.write(record(0, input=NEEDLE)) == first
        with pytest.raises(LedgerConflictError):
            await ledger.write(record(0, input="another"))
        await ledger.write(record(1, principal=None))
        await ledger.write_intent(Intent(run_id="run-1", step_id="i", node_id="n", input=NEEDLE))
        steps = await ledger.get_run("run-1")
        assert [step["input_task"] for step in steps] == [NEEDLE, {"text": "question 1"}]
        assert (await ledger.load_state("run-1", 0))["principal"]["subject"] == "alice"
        result = await ledger.verify_chain("run-1")
        assert (result["errors"], "sealed_payloads" in result["not_checked"]) == ([], False)
        await ledger._store.fork_run("fork", "run-1", 1, None, 1)
        assert len(await ledger.get_run("fork")) == 1
    for column in ("salt", "data"):
        assert all(NEEDLE.encode() not in row[0] for row in look(place, f"SELECT {column} FROM payloads"))
    for file in Path(kek).parent.iterdir():
        assert NEEDLE.encode() not in file.read_bytes()
    async with ReplayLedger(place, key_encryption_key=kek) as ledger:
        assert len(await ledger.get_run("run-1")) == 2


async def test_deleting_a_run_shreds_its_key(place: str | Path, kek: str, record: MakeRecord) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(0, "a"))
        await ledger.write(record(0, "b"))
        assert keys_in(place) == ["a", "b"]
        await ledger.anonymize_run("a", fields=["input"])
        assert keys_in(place) == ["a", "b"]
        await ledger.delete_run("a")
        assert keys_in(place) == ["b"]
        assert (await ledger.verify_chain("a"))["errors"] == []
        await ledger.write(record(1, "a"))
        assert keys_in(place) == ["b", "a"]
        assert (await ledger.get_run("a"))[0]["input_task"] == {"text": "question 1"}


async def test_erasing_a_subject_shreds_the_subjects_key(place: str | Path, kek: str, record: MakeRecord) -> None:
    async with ReplayLedger(place, encrypt="subject", key_encryption_key=kek) as ledger:
        await ledger.write(record(0, "a"))
        await ledger.write(record(0, "b"))
        await ledger.write(record(1, "b", principal=Principal("carol", "agent-9")))
        assert len(keys_in(place)) == 2
        assert not {"alice", "carol"} & set(keys_in(place))
        assert (await ledger.erase_subject("alice"))["runs"] == {"a": 5, "b": 5}
        assert len(keys_in(place)) == 1
        number = await ledger.hold(subject="carol", reason="case", authority="counsel")
        with pytest.raises(LedgerError, match="legal hold"):
            await ledger.delete_run("b")
        await ledger.release_hold(number, reason="settled", authority="counsel")
        await ledger.delete_run("b")
        assert keys_in(place) == []


async def test_a_key_that_is_gone_without_a_tombstone_is_tampering(
    place: str | Path, kek: str, record: MakeRecord
) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(0))
    look(place, "DELETE FROM keys")
    async with ReplayLedger(place, key_encryption_key=kek) as ledger:
        result = await ledger.verify_chain("run-1")
        assert "gone without an erasure entry" in str(result["errors"])
        assert (await ledger.get_run("run-1"))[0]["erased"] != []


async def test_a_changed_ciphertext_is_tampering(place: str | Path, kek: str, record: MakeRecord, kind: str) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(0))
    zero = "'\\x00'::bytea" if kind == "postgres" else "x'00'"
    look(place, "DROP TRIGGER payloads_update" + (" ON payloads" if kind == "postgres" else ""))
    look(place, f"UPDATE payloads SET data = data || {zero} WHERE id = 16")
    async with ReplayLedger(place, key_encryption_key=kek) as ledger:
        assert "not what was committed" in str((await ledger.verify_chain("run-1"))["errors"])


@pytest.mark.parametrize("other", [None, 8])
async def test_without_the_key_nothing_opens_nothing_is_lost_and_the_chain_verifies(
    place: str | Path, kek: str, record: MakeRecord, tmp_path: Path, other: int | None
) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(0))
    wrong = None if other is None else key_file(tmp_path, other, "wrong")
    async with ReplayLedger(place, encrypt="run" if wrong else "none", key_encryption_key=wrong) as ledger:
        with pytest.raises(LedgerError, match="key-encryption key"):
            await ledger.get_run("run-1")
        with pytest.raises(LedgerError, match="key-encryption key"):
            await ledger.erase_subject("alice")
        if wrong:
            for run_id in ("run-1", "run-2"):
                with pytest.raises(LedgerError, match="the one given is"):
                    await ledger.write(record(1, run_id))
        result = await ledger.verify_chain("run-1")
        assert (result["errors"], "sealed_payloads" in result["not_checked"]) == ([], True)
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(2))
        assert [step["step_id"] for step in await ledger.get_run("run-1")] == ["step-0", "step-2"]


async def test_a_run_is_erased_without_its_key(place: str | Path, kek: str, record: MakeRecord) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(0))
    async with ReplayLedger(place) as ledger:
        assert await ledger.delete_run("run-1") == 5
        result = await ledger.verify_chain("run-1")
        assert (result["errors"], "sealed_payloads" in result["not_checked"]) == ([], False)


async def test_payloads_of_a_ledger_in_the_clear_stay_readable(place: str | Path, kek: str, record: MakeRecord) -> None:
    async with ReplayLedger(place) as ledger:
        await ledger.write(record(0))
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(1))
        assert [step["erased"] for step in await ledger.get_run("run-1")] == [[], []]
        assert (await ledger.verify_chain("run-1"))["errors"] == []


def test_readers_find_payloads_by_their_place(path: Path) -> None:
    from meshflow.ledger.sql.payloads import KEY, PAYLOAD
    from meshflow.ledger.sqlite.schema import open_reader, open_writer

    open_writer(path, 1_000).close()
    reader = open_reader(path, 1_000)
    plan = reader.execute(
        f"EXPLAIN QUERY PLAN SELECT e.id, {PAYLOAD} FROM entries e LEFT JOIN payloads p "
        f"ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 {KEY} WHERE e.run_id = 'x' ORDER BY e.seq, p.id"
    ).fetchall()
    reader.close()
    assert any(row[3].startswith("SEARCH") and "p USING INTEGER PR" in row[3] for row in plan), plan


def test_a_sealed_payload_opens_in_its_own_place_alone() -> None:
    sealed = seal_payload(b"k" * 32, 16, b"s" * 16, b"data")
    assert open_payload(b"k" * 32, 16, sealed) == (b"s" * 16, b"data")
    assert open_payload(b"k" * 32, 17, sealed) is None
    assert open_payload(b"j" * 32, 16, sealed) is None
    assert open_payload(b"k" * 32, 16, b"short") is None


def test_a_wrapped_key_is_bound_to_its_label() -> None:
    wrapped = WrappingKey(b"k" * 32).wrap(b"d" * 32, b"run\x00a")
    assert WrappingKey(b"k" * 32).unwrap(wrapped, b"run\x00a") == b"d" * 32
    with pytest.raises(LockedError, match="damaged"):
        WrappingKey(b"k" * 32).unwrap(wrapped, b"run\x00b")
    with pytest.raises(LockedError, match="the one given is"):
        WrappingKey(b"j" * 32).unwrap(wrapped, b"run\x00a")


def test_a_key_that_cannot_be_used_is_refused_without_showing_it(tmp_path: Path, path: Path) -> None:
    open_to_all = Path(key_file(tmp_path))
    open_to_all.chmod(0o644)
    short = tmp_path / "short"
    short.write_text("c2hvcnQ=")
    short.chmod(0o600)
    for source, problem in (
        (str(open_to_all), "chmod 600"), (str(short), "5 bytes"), (str(tmp_path / "none"), "cannot be read"),
        ("env:NONE", "not set"), ("env:BAD", "base64"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=problem) as caught:
            wrapping_key(source, {"BAD": "hunter2, not base64"})
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="needs a key-encryption key"):
        ReplayLedger(path, encrypt="run")
    with pytest.raises(ConfigError, match="none of"):
        ReplayLedger(path, encrypt="tenant")


async def test_the_plugin_encrypts_as_its_settings_say(tmp_path: Path, kek: str, record: MakeRecord) -> None:
    settings = LedgerSettings(path="runs.db", encrypt="run", key_encryption_key=Path(kek).name)
    plugin = LedgerPlugin(settings, Host(base=tmp_path))
    await plugin.ledger.write(record())
    await plugin.shutdown()
    assert keys_in(tmp_path / "runs.db") == ["run-1"]


@pytest.mark.parametrize("processes", [1, 2])
async def test_the_whole_ledger_is_verified_with_the_key_and_sealed_without_it(
    place: str | Path, kek: str, record: MakeRecord, kind: str, processes: int
) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        for number in range(4):
            await ledger.write(record(number, f"run-{number % 2}"))
        await ledger.write(record(9, "gone"))
        await ledger.delete_run("gone")
        result = await ledger.verify_ledger(processes=processes)
        assert (result["errors"], result["sealed_payloads"]) == ([], 0)
    async with ReplayLedger(place) as ledger:
        result = await ledger.verify_ledger(processes=processes)
        assert (result["errors"], result["sealed_payloads"]) == ([], 20)
    zero = "'\\x00'::bytea" if kind == "postgres" else "x'00'"
    look(place, "DROP TRIGGER payloads_update" + (" ON payloads" if kind == "postgres" else ""))
    look(place, f"UPDATE payloads SET data = data || {zero} WHERE id = 16")
    look(place, "DELETE FROM keys WHERE name = 'run-1'")
    async with ReplayLedger(place, key_encryption_key=kek) as ledger:
        result = await ledger.verify_ledger(processes=processes)
    layers = {(finding["layer"], finding["run_id"]) for finding in result["findings"]}
    assert layers == {("commitments", "run-0"), ("erasures", "run-1")}


async def test_data_keys_are_wrapped_under_another_key(
    place: str | Path, kek: str, record: MakeRecord, tmp_path: Path
) -> None:
    new = key_file(tmp_path, 9, "new")
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        for number in range(6):
            await ledger.write(record(number, f"run-{number % 3}"))
        before = look(place, "SELECT id, scope, name, made_us FROM keys ORDER BY id")
        assert await ledger.rewrap(new) == 3
        assert look(place, "SELECT id, scope, name, made_us FROM keys ORDER BY id") == before
        # The ledger goes on with the new key: what it has read already, what it has not, and what it writes.
        assert len(await ledger.get_run("run-1")) == 2
        await ledger.write(record(7, "run-0"))
        await ledger.write(record(8, "run-9"))
        result = await ledger.verify_ledger()
        assert (result["errors"], result["sealed_payloads"]) == ([], 0)
    async with ReplayLedger(place, encrypt="run", key_encryption_key=new) as ledger:
        assert [len(await ledger.get_run(f"run-{n}")) for n in (0, 1, 2, 9)] == [3, 2, 2, 1]
        assert (await ledger.verify_chain("run-0"))["errors"] == []
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        with pytest.raises(LedgerError, match="the one given is"):
            await ledger.get_run("run-0")
        with pytest.raises(LedgerError, match="nothing was changed"):
            await ledger.rewrap(kek)
    async with ReplayLedger(place) as ledger:
        with pytest.raises(LedgerError, match="the key-encryption key that they are under"):
            await ledger.rewrap(new)


async def test_keys_are_wrapped_anew_all_or_none(
    place: str | Path, kek: str, record: MakeRecord, tmp_path: Path
) -> None:
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        await ledger.write(record(0, "run-0"))
        await ledger.write(record(0, "run-1"))
    look(place, "UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE id = 1) WHERE id = 2")
    before = look(place, "SELECT * FROM keys ORDER BY id")
    async with ReplayLedger(place, encrypt="run", key_encryption_key=kek) as ledger:
        with pytest.raises(LedgerError, match="damaged"):
            await ledger.rewrap(key_file(tmp_path, 9, "new"))
        assert look(place, "SELECT * FROM keys ORDER BY id") == before
        assert len(await ledger.get_run("run-0")) == 1
