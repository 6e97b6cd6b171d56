"""What an erasure leaves in the files of a PostgreSQL server, and what the documented statements do about it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshflow.facts import Principal
from meshflow.ledger import ReplayLedger
from meshflow.record import StepRecord
from tests.servers import PostgresServer, owned_database, postgres_server

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "erase-personal-data.md"
SECRET = b"a-very-recognisable-secret"
MANY = 40


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own, whose whole disk is searched."""
    with postgres_server(autovacuum="off") as server:
        owned_database(server)
        yield server


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def holding(server: PostgresServer, needle: bytes) -> set[str]:
    """The kinds of files that hold a text: tables, or the write-ahead log."""
    server.sql("CHECKPOINT")
    found = set()
    for path in server.data.rglob("*"):
        if path.is_file() and needle in path.read_bytes():
            found.add(path.relative_to(server.data).parts[0])
    return found


def documented() -> list[str]:
    """The statements that the page gives to an operator."""
    match = re.search(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return [line.rstrip(";") for line in match[1].splitlines()]


async def fill(ledger: ReplayLedger) -> None:
    text = SECRET.decode()
    for number in range(MANY):
        step = StepRecord(
            run_id="run-1", node_id="n", step_id=f"s{number}", input={"text": f"{text} {number}"}, output=text,
            metadata={text: number}, reason=text, principal=Principal(text, text, claims={"mail": text}),
        )  # fmt: skip
        await ledger.write(step)
        await ledger.write(StepRecord(run_id="kept", node_id="n", step_id=f"s{number}", input=f"keep {number}"))


def rewrite(server: PostgresServer, schema: str) -> None:
    for statement in documented():
        user = "postgres" if statement == "CHECKPOINT" else "owner"
        whole = re.sub(r"(?<=\) )(?=\w+$)", f"{schema}.", statement)
        server.sql(whole, database="ledgers", user=user)


@pytest.mark.slow
async def test_rewriting_takes_what_was_erased_out_of_the_tables_and_leaves_the_ledger_whole(
    server: PostgresServer,
) -> None:
    async with ReplayLedger(server.url("ledgers", "owner", schema="plain")) as ledger:
        await fill(ledger)
        assert holding(server, SECRET) == {"base", "pg_wal"}
        assert await ledger.delete_run("run-1") > 0
        assert await ledger.get_run("run-1") == []
        assert "base" in holding(server, SECRET), "the page says that dead rows stay; if they do not, mend the page"
        rewrite(server, "plain")
        assert "base" not in holding(server, SECRET)
        assert (await ledger.verify_ledger())["errors"] == []
        assert (await ledger.get_run("kept"))[7]["input_task"] == "keep 7"
        await ledger.write(StepRecord(run_id="kept", node_id="n", input="goes on"))
        assert (await ledger.verify_chain("kept"))["valid"]


@pytest.mark.slow
async def test_under_a_key_nothing_is_ever_in_the_clear_and_rewriting_takes_the_deleted_key_along(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = b"another-recognisable-secret"
    monkeypatch.setenv("KEK", base64.b64encode(bytes(range(32))).decode())
    url = server.url("ledgers", "owner", schema="sealed")
    async with ReplayLedger(url, encrypt="run", key_encryption_key="env:KEK") as ledger:
        step = StepRecord(run_id="run-1", node_id="n", input=secret.decode(), metadata={"note": secret.decode()})
        await ledger.write(step)
        assert holding(server, secret) == set()
        ((wrapped,),) = server.sql("SELECT wrapped FROM sealed.keys", database="ledgers")
        assert holding(server, wrapped) == {"base", "pg_wal"}
        await ledger.delete_run("run-1")
        assert server.sql("SELECT wrapped FROM sealed.keys", database="ledgers") == []
        rewrite(server, "sealed")
        assert "base" not in holding(server, wrapped)
        assert (await ledger.verify_chain("run-1"))["valid"]
