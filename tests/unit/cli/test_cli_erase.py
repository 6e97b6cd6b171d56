"""``meshflow ledger erase`` and its kin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshflow import ReplayLedger
from meshflow.checkpoint.sqlite import SqliteCheckpoints
from meshflow.checkpoint.store import Checkpoint, ThreadKey
from meshflow.facts import Principal
from meshflow.record import StepRecord

if TYPE_CHECKING:
    from .conftest import Shell

WHY = ("--reason", "request 4", "--authority", "dpo")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"

    async def fill() -> None:
        async with ReplayLedger(path) as ledger:
            for run_id in ("a", "b"):
                who = Principal("alice", "agent-7")
                given = {"run_id": run_id, "node_id": "n", "step_id": "s", "input": "in", "output": "out"}
                await ledger.write(StepRecord(**given, started_us=1, principal=who))

    asyncio.run(fill())
    return path


def test_a_run_is_erased_whole_or_in_part(shell: Shell, runs: Path) -> None:
    part = shell("ledger", "erase", "a", *WHY, "--fields", "principal, input", "--ledger", str(runs), "--json")
    assert part.document["erased"] == 2
    assert len(shell("ledger", "show", "a", "--ledger", str(runs), "--json").document["steps"]) == 1
    whole = shell("ledger", "erase", "a", *WHY, "--ledger", str(runs))
    assert "erased" in whole.out
    assert shell("ledger", "show", "a", "--ledger", str(runs)).code == 4
    assert shell("ledger", "verify", "a", "--ledger", str(runs)).code == 0
    assert shell("ledger", "erase", "a", *WHY, "--fields", "verdict", "--ledger", str(runs)).code == 4
    assert shell("ledger", "erase", "unknown", *WHY, "--ledger", str(runs)).code == 4
    assert shell("ledger", "erase", "a", "--ledger", str(runs)).code == 2


def test_a_hold_stands_in_the_way_until_it_is_released(shell: Shell, runs: Path) -> None:
    where = ("--ledger", str(runs))
    assert shell("ledger", "hold", "a", *WHY, *where, "--json").document["hold"] == 1
    refused = shell("ledger", "erase", "a", *WHY, *where)
    assert refused.code == 4
    assert "legal hold 1" in refused.err
    partly = shell("ledger", "erase-subject", "alice", *WHY, *where, "--json")
    assert (partly.code, partly.document["runs"]) == (1, {"b": 3})
    assert "legal hold 1" in partly.document["held"]["a"]
    assert "request 4" in shell("ledger", "holds", *where).out
    assert shell("ledger", "hold", "--release", "1", *WHY, *where, "--json").document["released"] is True
    assert "no holds" in shell("ledger", "holds", *where).out
    assert shell("ledger", "holds", "--all", *where, "--json").document["holds"][0]["released_at"]
    done = shell("ledger", "erase-subject", "alice", *WHY, *where)
    assert (done.code, "a: 3 payloads" in done.out) == (0, True)
    assert shell("ledger", "hold", *WHY, *where).code == 2
    assert shell("ledger", "hold", "a", "--subject", "alice", *WHY, *where).code == 2


def test_retention_follows_the_configuration(shell: Shell, runs: Path) -> None:
    nothing = shell("ledger", "retention", "--ledger", str(runs))
    assert (nothing.code, "ledger.retention" in nothing.err) == (3, True)
    shell.write("meshflow.yaml", "ledger:\n  path: runs.db\n  retention:\n    - {keep: 30d, fields: [input]}\n")
    assert shell("ledger", "retention", "--json").document["runs"] == {"a": 1, "b": 1}


async def keep_state(place: Path, run_id: str) -> None:
    store = SqliteCheckpoints(place)
    await store.put(ThreadKey("default", "thread"), Checkpoint(checkpoint_id="1", body=b"", run_id=run_id), {})
    await store.aclose()


def test_state_of_a_graph_goes_with_its_run_where_it_is_named(shell: Shell, runs: Path, tmp_path: Path) -> None:
    place = tmp_path / "graphs.db"
    asyncio.run(keep_state(place, "a"))
    missing = shell("ledger", "erase", "a", *WHY, "--graphs", str(tmp_path / "grahps.db"), "--ledger", str(runs))
    assert missing.code == 1
    assert "grahps.db" in missing.err
    done = shell("ledger", "erase", "a", *WHY, "--graphs", str(place), "--ledger", str(runs))
    assert done.code == 0
    store = SqliteCheckpoints(place)
    assert asyncio.run(store.threads("default")) == []
    store.close()


def test_state_of_a_graph_goes_with_its_run_where_it_is_configured(shell: Shell, runs: Path, tmp_path: Path) -> None:
    asyncio.run(keep_state(tmp_path / "graphs.db", "b"))
    config = tmp_path / "meshflow.yaml"
    config.write_text("version: 1\nledger: {path: runs.db, graph_checkpoints: [graphs.db]}\n")
    assert shell("ledger", "erase-subject", "alice", *WHY, "--config", str(config)).code == 0
    store = SqliteCheckpoints(tmp_path / "graphs.db")
    assert asyncio.run(store.threads("default")) == []
    store.close()
