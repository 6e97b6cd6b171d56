"""Verification against what is held outside: anchors, and cosignatures of witnesses that run."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from forgery import Forger
from witnesses import anchor_at, keys_of, witness

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.anchoring import compare_by
from meshflow.ledger.anchors import AnchorError, ContradictionError, FileAnchor, Receipt
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.ledger.witness import WitnessServer


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Any]:
    """Start three witnesses of a ledger's log; the keys are those that it has when they start."""
    with ExitStack() as stack:

        async def start(ledger: ReplayLedger) -> list[WitnessServer]:
            logs = await ledger.verifiers()
            return [stack.enter_context(witness(tmp_path, name, logs)) for name in ("one", "two", "three")]

        yield start


async def write(ledger: ReplayLedger, count: int, run: str = "run-1", **more: Any) -> None:
    for _ in range(count):
        await ledger.write({"run_id": run, "node_id": "n", **more})


def rewrite(path: Path, again: bool = True) -> None:
    """Change an early entry, and cover that up with the stolen key."""
    forger = Forger(path, path.with_name(path.name + ".key"))
    forger.rewrite("run-1", 0, code="changed")
    if again:
        forger.everything_again()
    forger.db.close()


def layers(result: dict[str, Any]) -> set[str]:
    return {finding["layer"] for finding in result["findings"]}


async def test_cosignatures_are_kept_and_counted_long_after_the_witnesses_are_gone(
    ledger: ReplayLedger, three: Any, path: Path
) -> None:
    await write(ledger, 3)
    servers = await three(ledger)
    receipts = await ledger.anchor(*map(anchor_at, servers))
    assert all(receipt.cosigned.count("\n") == 2 for receipt in receipts)
    await write(ledger, 2)
    for server in servers:
        server.shutdown()
        server.server_close()
    witnesses = [key for server in servers for key in keys_of(server)]
    assert len(witnesses) == 6
    for result in (
        await ledger.verify_ledger(witnesses=witnesses),
        await ledger.verify_chain("run-1", witnesses=witnesses, quorum=2),
    ):
        assert (result["valid"], result["errors"]) == (True, [])
        assert "witness" in result["checked"]
        assert "witness" not in result["not_checked"]
        assert result["held_size"] == result["witness"]["size"] == 3
        assert sorted(result["witness"]["cosigned"]) == ["one.example/w", "three.example/w", "two.example/w"]
        assert (result["witness"]["needed"], result["witness"]["of"]) in ((3, 3), (2, 3))
    alone = await ledger.verify_ledger()
    assert ("witness" in alone["not_checked"], alone["witness"]) == (True, None)


async def test_too_few_witnesses_are_a_finding(ledger: ReplayLedger, three: Any) -> None:
    await write(ledger, 3)
    servers = await three(ledger)
    await ledger.anchor(*map(anchor_at, servers[:2]))
    witnesses = [keys_of(server)[0] for server in servers]
    assert (await ledger.verify_chain("run-1", witnesses=witnesses, quorum=2))["valid"]
    result = await ledger.verify_chain("run-1", witnesses=witnesses)
    assert (result["valid"], layers(result)) == (False, {"witness"})
    assert "no checkpoint is cosigned by 3 of the 3 witnesses; the most have 2" in result["errors"][0]
    stranger = await ledger.verify_ledger(witnesses=witnesses[2:])
    assert (stranger["valid"], stranger["witness"]["size"]) == (False, None)
    for wrong in ({"quorum": 4}, {"quorum": 0}):
        with pytest.raises(LedgerError, match="quorum"):
            await ledger.verify_ledger(witnesses=witnesses, **wrong)
    with pytest.raises(LedgerError, match="quorum of 1"):
        await ledger.verify_ledger(quorum=1)


async def test_the_newest_checkpoint_that_enough_cosigned_counts(ledger: ReplayLedger, three: Any) -> None:
    servers: list[WitnessServer] = []
    for count in (2, 3, 1):
        await write(ledger, 2)
        servers = servers or await three(ledger)
        await ledger.anchor(*map(anchor_at, servers[:count]))
    witnesses = [keys_of(server)[0] for server in servers]
    sizes = [
        (await ledger.verify_chain("run-1", witnesses=witnesses, quorum=needed))["witness"]["size"]
        for needed in (1, 2, 3)
    ]
    assert sizes == [6, 4, 4]


async def test_an_insider_who_rewrites_and_signs_again_is_found_by_what_a_witness_cosigned(
    ledger: ReplayLedger, three: Any, path: Path
) -> None:
    await write(ledger, 5)
    servers = await three(ledger)
    await ledger.anchor(anchor_at(servers[0]))
    await ledger.aclose()
    rewrite(path)
    async with ReplayLedger(path) as forged:
        assert (await forged.verify_ledger())["valid"]
        result = await forged.verify_ledger(witnesses=keys_of(servers[0]))
        assert (result["valid"], layers(result)) == (False, {"witness"})
        assert "this is another history" in result["errors"][0]
        assert not (await forged.verify_chain("run-1", witnesses=keys_of(servers[0])))["valid"]
        with pytest.raises(ContradictionError, match="entries were rewritten"):
            await forged.anchor(anchor_at(servers[0]))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM receipts")
    db.close()
    async with ReplayLedger(path) as forged:
        result = await forged.verify_ledger(witnesses=keys_of(servers[0]))
        assert (result["valid"], layers(result)) == (False, {"witness"})
        assert "no checkpoint is cosigned" in result["errors"][0]
        asked = await forged.verify_ledger(witnesses=keys_of(servers[0]), anchors=[anchor_at(servers[0])])
        assert layers(asked) == {"anchor", "witness"}


async def test_an_old_backup_is_found_by_asking_the_witness_and_by_nothing_that_came_with_it(
    ledger: ReplayLedger, three: Any, path: Path, tmp_path: Path
) -> None:
    await write(ledger, 3)
    servers = await three(ledger)
    await ledger.anchor(anchor_at(servers[0]))
    backup = tmp_path / "backup.db"
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as copy:
        source.backup(copy)
    source.close()
    copy.close()
    shutil.copy(f"{path}.key", f"{backup}.key")
    await write(ledger, 4)
    await ledger.anchor(anchor_at(servers[0]))
    later = ManualClock(int((time.time() + 3 * 3_600) * 1_000_000))
    async with ReplayLedger(backup, clock=later) as old:
        young: dict[str, Any] = {"witnesses": keys_of(servers[0]), "cosigned_within_s": 7_200}
        assert (await old.verify_ledger(**young | {"cosigned_within_s": 20_000}))["valid"]
        for result in (await old.verify_ledger(**young), await old.verify_chain("run-1", **young)):
            assert (result["valid"], layers(result)) == (False, {"witness"})
            assert "not enough witnesses have cosigned since" in result["errors"][0]
    async with ReplayLedger(backup) as old:
        assert (await old.verify_ledger(witnesses=keys_of(servers[0])))["valid"]
        assert (await old.verify_ledger(**young))["valid"]
        result = await old.verify_ledger(witnesses=keys_of(servers[0]), anchors=[anchor_at(servers[0])])
        assert (result["valid"], layers(result)) == (False, {"anchor", "witness"})
        assert "entries have been cut off, or an older copy" in result["errors"][0]
        with pytest.raises(ContradictionError, match="entries were cut off"):
            await old.anchor(anchor_at(servers[0]))


async def test_of_two_histories_shown_to_one_witness_the_second_is_refused_and_auditors_find_both(
    ledger: ReplayLedger, three: Any, path: Path, tmp_path: Path
) -> None:
    await write(ledger, 4)
    keys = await ledger.verifiers()
    servers = await three(ledger)
    await ledger.anchor(anchor_at(servers[0]))
    common = await ledger.checkpoint()
    await ledger.aclose()
    other = tmp_path / "other.db"
    shutil.copy(path, other)
    shutil.copy(f"{path}.key", f"{other}.key")
    shown = []
    for place, code in ((path, "a"), (other, "b")):
        async with ReplayLedger(place) as one:
            await write(one, 3, run=f"run-{code}")
            shown.append(await one.checkpoint())
            assert (await one.verify_ledger(witnesses=keys_of(servers[0])))["valid"]
            if place == path:
                await one.anchor(anchor_at(servers[0]))
            else:
                with pytest.raises(ContradictionError):
                    await one.anchor(anchor_at(servers[0]))
                # Also where the ledger's operator goes around the comparison and submits it as it is.
                fresh = anchor_at(servers[0])
                with pytest.raises(ContradictionError, match="history was rewritten"):
                    await fresh.publish(shown[1], one._store.consistency)  # type: ignore[arg-type]
    assert len(servers[0].witness.state.all_refused()) == 1
    for place, honest in ((path, shown[0]), (other, shown[1])):
        async with ReplayLedger(place) as one:
            assert (await one.compare(common, honest, keys=keys))["consistent"]
            result = await one.compare(*shown, keys=keys)
            assert (result["consistent"], result["problem"]) == (
                False,
                "the log signed two roots for its first 7 entries",
            )
            await write(one, 2)
            longer = await one.checkpoint()
            proof = await one.compare(honest, longer)
            assert compare_by(proof["path"], honest, longer, keys)["consistent"]
            foreign = shown[1] if honest == shown[0] else shown[0]
            assert "nothing shows" in (await one.compare(foreign, longer))["problem"]
            assert not compare_by(proof["path"], foreign, longer, keys)["consistent"]
    assert not compare_by([], *shown, keys)["consistent"]


async def test_auditors_compare_only_what_the_log_signed(ledger: ReplayLedger, tmp_path: Path) -> None:
    await write(ledger, 2)
    first = await ledger.checkpoint()
    await write(ledger, 2)
    second = await ledger.checkpoint()
    async with ReplayLedger(tmp_path / "else.db") as stranger:
        await write(stranger, 2)
        theirs, their_keys = await stranger.checkpoint(), await stranger.verifiers()
    for arguments in ((first, theirs), (theirs, first), (first, second.replace("\n4\n", "\n5\n"))):
        with pytest.raises(LedgerError):
            await ledger.compare(*arguments)
    with pytest.raises(LedgerError):
        await ledger.compare(first, second, keys=their_keys)
    assert (await ledger.compare(second, first))["old_size"] == 2


async def test_history_rewritten_under_an_anchor_and_grown_beyond_it_is_not_published(
    ledger: ReplayLedger, path: Path, tmp_path: Path
) -> None:
    anchor = FileAnchor(tmp_path / "kept")
    await write(ledger, 5)
    await ledger.anchor(anchor)
    await ledger.aclose()
    rewrite(path)
    async with ReplayLedger(path) as forged:
        await write(forged, 5)
        with pytest.raises(ContradictionError, match="entries were rewritten"):
            await forged.anchor(anchor)
        # Somebody who owns the anchor's place as well appends to it; the older checkpoint still tells.
        await anchor.publish(await forged.checkpoint())
        result = await forged.verify_ledger(anchors=[anchor])
        assert (result["valid"], layers(result)) == (False, {"anchor"})
        assert result["anchors"] == {anchor.name: {"compared": 2, "newest": 10}}
        assert f"a checkpoint that {anchor.name} keeps" in result["errors"][0]


async def test_what_an_anchor_keeps_of_nobody_knows_whom_is_an_error_and_no_contradiction(
    ledger: ReplayLedger, tmp_path: Path
) -> None:
    await write(ledger, 3)
    note = await ledger.checkpoint()
    anchor = FileAnchor(tmp_path / "kept")
    await anchor.publish(note.split("\n\n")[0].replace("\n3\n", "\n9\n") + "\n\n" + note.split("\n\n")[1])
    with pytest.raises(AnchorError, match="did not sign") as caught:
        await ledger.anchor(anchor)
    assert not isinstance(caught.value, ContradictionError)
    assert not (await ledger.verify_ledger(anchors=[anchor]))["valid"]


async def test_forged_cosignatures_in_the_ledger_are_a_finding(ledger: ReplayLedger, three: Any, path: Path) -> None:
    await write(ledger, 3)
    servers = await three(ledger)
    await ledger.anchor(anchor_at(servers[0]))
    await write(ledger, 1)
    newest = await ledger.checkpoint()
    with closing(sqlite3.connect(path)) as db:
        ((note,),) = db.execute("SELECT note FROM receipts").fetchall()
    lines = note[len(note.split("\n\n")[0]) + 2 :].split("\n", 1)[1]
    await ledger._store.keep_receipt("witness two", 4, "nowhere", newest + lines, "", 0)
    result = await ledger.verify_ledger(witnesses=keys_of(servers[0]))
    assert (result["valid"], layers(result)) == (False, {"witness"})
    assert "is not right" in result["errors"][0]


async def test_one_key_under_two_names_is_no_quorum(ledger: ReplayLedger, three: Any) -> None:
    from meshflow.ledger.format.cosignatures import Cosigner

    await write(ledger, 1)
    servers = await three(ledger)
    key = Cosigner.parse(keys_of(servers[0])[0])
    twin = Cosigner("twin.example/w", key.algorithm, key.public)
    with pytest.raises(LedgerError, match="several names"):
        await ledger.verify_ledger(witnesses=[str(key), str(twin)])


async def test_a_log_cut_off_is_found_by_a_witness_that_serves_nothing(
    ledger: ReplayLedger, three: Any, path: Path
) -> None:
    await write(ledger, 2)
    servers = await three(ledger)
    with sqlite3.connect(path) as source, sqlite3.connect(f"{path}.old") as old:
        source.backup(old)
    source.close()
    old.close()
    shutil.copy(f"{path}.key", f"{path}.old.key")
    await write(ledger, 3)
    await ledger.anchor(anchor_at(servers[0]))
    async with ReplayLedger(f"{path}.old") as behind:
        mute = anchor_at(servers[0], monitoring_url=servers[0].url + "/nowhere")
        assert await mute.latest("any") is None
        with pytest.raises(ContradictionError, match="has cosigned a checkpoint of 5 entries"):
            await behind.anchor(mute)


async def test_many_publishers_of_one_ledger_never_raise_a_false_alarm(
    ledger: ReplayLedger, three: Any, path: Path, tmp_path: Path
) -> None:
    await write(ledger, 1)
    servers = await three(ledger)
    places: list[Any] = [lambda: FileAnchor(tmp_path / "kept"), lambda: anchor_at(servers[0])]
    published: list[int] = []

    def contradicted(standings: list[dict[str, Any]]) -> list[Any]:
        failing = [one["failing"]["problem"] for one in standings if one["failing"]]
        return [problem for problem in failing if "were faster" not in problem]

    async with ReplayLedger(path) as second:

        async def busy(one: ReplayLedger, number: int) -> None:
            for _ in range(6):
                await write(one, 1, run=f"run-{number}")
                # Those who are overtaken several times in a row are told so; nobody is told of a contradiction.
                with suppress(AnchorError):
                    await one.anchor(places[number % 2]())
                    published.append(number)
                assert not contradicted(await one.receipts())

        await asyncio.gather(*(busy((ledger, second)[number % 2], number) for number in range(6)))
    result = await ledger.verify_ledger(anchors=[make() for make in places], witnesses=keys_of(servers[0]))
    assert (result["valid"], result["errors"]) == (True, [])
    assert published


async def test_what_anchors_gave_back_and_how_they_fail_is_on_record(
    ledger: ReplayLedger, three: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "later"
    anchor = FileAnchor(folder / "kept")
    await write(ledger, 2)
    for _ in range(3):
        with pytest.raises(AnchorError, match="cannot be written"):
            await ledger.anchor(anchor)
    (failing,) = await ledger.receipts()
    assert (failing["anchor"], failing["size"]) == (anchor.name, None)
    assert failing["failing"]["times"] == 3
    assert "cannot be written" in failing["failing"]["problem"]
    folder.mkdir()
    servers = await three(ledger)
    witness_anchor = anchor_at(servers[0])
    assert await ledger.anchor(anchor) == [Receipt(anchor.name)]
    await ledger.anchor(witness_anchor)
    kept, cosigned = await ledger.receipts()
    assert (kept["size"], kept["failing"], kept["where"]) == (2, None, anchor.name)
    assert read_checkpoint(cosigned["cosigned"]).size == 2
    await write(ledger, 1)
    servers[0].shutdown()
    servers[0].server_close()
    with pytest.raises(AnchorError, match="cannot be reached"):
        await ledger.anchor(witness_anchor)
    assert [one["failing"] is None for one in await ledger.receipts()] == [True, False]


async def test_one_anchor_that_fails_does_not_keep_the_others_from_it(ledger: ReplayLedger, tmp_path: Path) -> None:
    await write(ledger, 2)
    good, bad = FileAnchor(tmp_path / "kept"), FileAnchor(tmp_path / "no" / "kept")
    with pytest.raises(AnchorError, match="cannot be written"):
        await ledger.anchor(bad, good)
    assert await good.latest() == await ledger.checkpoint()


async def test_a_file_that_several_append_to_at_once_keeps_its_order(ledger: ReplayLedger, tmp_path: Path) -> None:
    notes = []
    for _ in range(40):
        await write(ledger, 1)
        notes.append(await ledger.checkpoint())
    places = [FileAnchor(tmp_path / "kept") for _ in range(4)]

    async def publish(number: int) -> None:
        with suppress(ContradictionError):
            await places[number % 4].publish(notes[number])

    await asyncio.gather(*map(publish, range(40)))
    sizes = [read_checkpoint(note).size for note in await places[0].kept(100)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 40


async def test_a_witness_that_does_not_know_the_ledger_says_so(ledger: ReplayLedger, tmp_path: Path) -> None:
    await write(ledger, 1)
    async with ReplayLedger(tmp_path / "else.db") as other:
        await write(other, 1)
        logs = await other.verifiers()
    mine = (await ledger.verifiers())[0]
    impostor = logs[0].replace(logs[0].split("+")[0], mine.split("+")[0])
    with witness(tmp_path, "w", logs) as server, pytest.raises(AnchorError, match="does not know this ledger"):
        await ledger.anchor(anchor_at(server))
    with pytest.raises(LedgerError), witness(tmp_path, "v", [impostor]):
        pass


async def test_a_rotated_key_goes_on_with_a_witness_that_was_told(ledger: ReplayLedger, tmp_path: Path) -> None:
    await write(ledger, 2)
    (old,) = await ledger.verifiers()
    with witness(tmp_path, "w", [old]) as server:
        await ledger.anchor(anchor_at(server))
        new = await ledger.rotate_key()
        await write(ledger, 2)
        with pytest.raises(AnchorError, match="does not have the key"):
            await ledger.anchor(anchor_at(server))
    with witness(tmp_path, "w", [old, new]) as server:
        await ledger.anchor(anchor_at(server))
        result = await ledger.verify_ledger(witnesses=keys_of(server), anchors=[anchor_at(server)], keys=[old])
        assert (result["valid"], result["errors"], result["held_size"]) == (True, [], 4)
