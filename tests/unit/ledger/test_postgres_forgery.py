"""The attacks on a SQLite ledger, made by a superuser of PostgreSQL whom no trigger and no policy stops."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forgery import Forger, assert_found, write_ledger
from test_attacks import ATTACKS as ON_A_RUN
from test_verify_ledger import ATTACKS as ON_THE_LEDGER
from test_verify_ledger import UNDER_ANOTHER_HISTORY

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.postgres.connection import PostgresConnection
from meshflow.ledger.sql.database import Cursor
from tests.servers import PostgresServer, aside

KINDS = ("postgres",)
_numbers = itertools.count()
# Values of another type than their column has: PostgreSQL refuses what SQLite stores.
REFUSED = ("respell tokens", "payload as text")
OF_THE_FILE = "index against table"  # is done to the pages of an index, which a server keeps to itself
_ALIKE = (
    (r"zeroblob\(((?:[^()]|\([^()]*\))*)\)", r"decode(repeat('00', \1), 'hex')"),
    (r"(?<!\w)x'([0-9a-f]*)'", r"'\\x\1'::bytea"),
    (r"CAST\(data \|\| ' ' AS BLOB\)", "data || convert_to(' ', 'UTF8')"),
    (r"CAST\((\d+) AS BLOB\)", r"convert_to('\1', 'UTF8')"),
    (r"CAST\((data|body) AS TEXT\)", r"convert_from(\1, 'UTF8')"),
    (r"CAST\((.*) AS BLOB\)", r"convert_to(\1, 'UTF8')"),
    (r"char\(10\)", "chr(10)"),
    (r"\b1 << ", "1::bigint << "),
    (r"INSERT INTO runs SELECT NULL", "INSERT INTO runs SELECT 99999"),
)
_SUMS = """
INSERT INTO runs (id, run_id, tenant_id, first_seq, parent_steps, entries, steps, commits, rejects, escalates, errors,
                  cost_micro_usd, tokens, first_us, last_us)
SELECT min(id), run_id, tenant_id, min(seq), 0, count(*), count(step_index),
  count(*) FILTER (WHERE kind = 'step' AND verdict = 'commit'),
  count(*) FILTER (WHERE kind = 'step' AND verdict = 'reject'),
  count(*) FILTER (WHERE kind = 'step' AND verdict = 'escalate'),
  count(*) FILTER (WHERE kind = 'step' AND verdict = 'error'),
  coalesce(sum(cost_micro_usd) FILTER (WHERE kind = 'step'), 0), coalesce(sum(tokens) FILTER (WHERE kind = 'step'), 0),
  min(started_us) FILTER (WHERE kind = 'step'), max(started_us + duration_ns / 1000) FILTER (WHERE kind = 'step')
FROM entries GROUP BY run_id, tenant_id;
INSERT INTO run_nodes SELECT run_id, tenant_id, node_id, min(seq) FROM entries
WHERE kind = 'step' AND node_id IS NOT NULL GROUP BY run_id, tenant_id, node_id;
INSERT INTO run_tools SELECT run_id, tenant_id, convert_from(body, 'UTF8')::jsonb ->> 'tool', min(seq) FROM entries
WHERE kind = 'step' AND jsonb_typeof(convert_from(body, 'UTF8')::jsonb -> 'tool') = 'string' GROUP BY 1, 2, 3
"""


class Changed:
    """What a statement that returns no rows did."""

    def __init__(self, said: str) -> None:
        self.rowcount = int(said.split()[-1]) if said.split()[-1].isdigit() else -1

    def fetchone(self) -> None:
        return None


class Superuser(PostgresConnection):
    """A connection that runs the attacks as they are written for SQLite."""

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        if sql.startswith("PRAGMA table_info("):
            names = "SELECT ordinal_position, column_name FROM information_schema.columns "
            where = "WHERE table_schema = current_schema() AND table_name = 'entries' ORDER BY 1"
            return super().execute(names + where)
        for here, there in _ALIKE:
            sql = re.sub(here, there, sql)
        if "SET seq = seq - 1" in sql:  # PostgreSQL looks for rivals at every row
            self.execute(sql.replace("seq - 1", "1 - seq"))
            sql = "UPDATE entries SET seq = -seq WHERE seq < 0"
        if sql.startswith("SELECT"):
            return super().execute(sql, parameters)
        from meshflow.ledger.postgres.translate import translate

        return Changed(self.run(self._raw.execute(translate(sql).text, *parameters)))  # type: ignore[return-value]


class ServerForger(Forger):
    """The same attacker, with a server before it."""

    def __init__(self, db: Any, key: Path) -> None:
        self.db = db
        self.key = key

    def sum_up(self) -> None:
        self.db.script(_SUMS)


class Copies:
    """A database with a ledger, and copies of it to attack."""

    def __init__(self, server: PostgresServer, folder: Path, fill: Callable[[str], Any]) -> None:
        self.server = server
        self.original = f"written_{next(_numbers)}"
        self.made: list[str] = []
        server.sql(f"CREATE DATABASE {self.original} OWNER owner")
        before = os.getcwd()
        os.chdir(folder)
        try:
            self.held = asyncio.run(fill(self.url(self.original)))
        finally:
            os.chdir(before)
        self.key = folder / f"meshflow-{self.original}.key"

    def url(self, database: str, user: str = "owner") -> str:
        return self.server.url(database, user)

    def attacked(self, attack: Callable[[Any], object] | None = None) -> str:
        """Return the URL of a copy that was attacked."""
        name = f"copy_{next(_numbers)}"
        self.server.sql(f"CREATE DATABASE {name} TEMPLATE {self.original}")
        self.made.append(name)

        def work() -> None:
            settings = {"search_path": "meshflow", "session_replication_role": "replica"}
            db = Superuser(self.url(name, "postgres"), name, settings)
            try:
                db.script("BEGIN")
                if attack is not None:
                    attack(db)
                db.script("COMMIT")
            finally:
                db.close()

        aside(work)
        return self.url(name)

    def forged(self, attack: Callable[[Forger], object] | None = None) -> str:
        if attack is None:
            return self.attacked()
        return self.attacked(lambda db: attack(ServerForger(db, self.key)))

    def ledger(self, url: str) -> ReplayLedger:
        return ReplayLedger(url, key=self.key)

    def drop(self) -> None:
        for name in (*self.made, self.original):
            self.server.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def fill_a_run(url: str) -> None:
    """What the module of attacks on a run fills its file with."""
    async with ReplayLedger(url, clock=ManualClock()) as ledger:
        for number in range(6):
            await ledger.write({
                "run_id": "run-1", "node_id": "n", "step_id": f"s{number}", "tenant_id": "acme", "cost_usd": 0.0015,
                "tokens": 12, "input_task": f"q{number}", "output_content": "a", "tool": "mail",
            })  # fmt: skip
        await ledger.write({"run_id": "run-2", "node_id": "n", "step_id": "s9", "tenant_id": "acme"})
        await ledger.close_run("run-1")
        await ledger.write({"run_id": "run-2", "node_id": "n", "step_id": "s10", "tenant_id": "acme"})


@pytest.fixture(scope="module")
def a_run(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    copies = Copies(postgres, tmp_path_factory.mktemp("run"), fill_a_run)
    yield copies
    copies.drop()


@pytest.fixture(scope="module")
def a_ledger(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    copies = Copies(postgres, tmp_path_factory.mktemp("ledger"), write_ledger)
    yield copies
    copies.drop()


async def test_the_ledgers_under_attack_are_valid_before(a_run: Copies, a_ledger: Copies) -> None:
    async with a_run.ledger(a_run.attacked()) as ledger:
        result = await ledger.verify_chain("run-1")
        assert (result["valid"], result["state"], result["steps_verified"], result["errors"]) == (True, "closed", 6, [])
    held = a_ledger.held
    async with a_ledger.ledger(a_ledger.forged()) as ledger:
        for processes in (1, 2):
            result = await ledger.verify_ledger(
                since=[held["early"], held["old key"], held["late"]],
                keys=held["keys"].splitlines(),
                processes=processes,
            )
            assert (result["valid"], result["errors"]) == (True, [])


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_server_does_not_store_is_no_attack_on_it(name: str, a_run: Copies, a_ledger: Copies) -> None:
    if name in ON_A_RUN:
        with pytest.raises(LedgerError, match="DatatypeMismatch"):
            a_run.attacked(ON_A_RUN[name][0])
    if name in ON_THE_LEDGER:
        with pytest.raises(LedgerError, match="DatatypeMismatch"):
            a_ledger.forged(ON_THE_LEDGER[name][0])


@pytest.mark.parametrize("name", [one for one in ON_A_RUN if one not in REFUSED])
async def test_a_tampering_of_a_run_is_found_at_its_layer_and_named(name: str, a_run: Copies) -> None:
    attack, layer, where = ON_A_RUN[name]
    async with a_run.ledger(a_run.attacked(attack)) as ledger:
        assert_found(await ledger.verify_chain("run-1"), layer, where)


@pytest.mark.parametrize("name", [one for one in ON_THE_LEDGER if one not in (*REFUSED, OF_THE_FILE)])
async def test_a_tampering_of_the_ledger_is_found_at_its_layer_and_named(name: str, a_ledger: Copies) -> None:
    attack, layer, where = ON_THE_LEDGER[name]
    async with a_ledger.ledger(a_ledger.forged(attack)) as ledger:
        assert_found(await ledger.verify_ledger(processes=1), layer, where)


@pytest.mark.parametrize("name", UNDER_ANOTHER_HISTORY)
async def test_a_history_signed_anew_is_found_by_a_checkpoint_from_outside(name: str, a_ledger: Copies) -> None:
    keys, (attack, text) = a_ledger.held["keys"].splitlines(), UNDER_ANOTHER_HISTORY[name]
    async with a_ledger.ledger(a_ledger.forged(attack)) as ledger:
        result = await ledger.verify_ledger(since=a_ledger.held["late"], keys=keys)
        assert_found(result, "held_checkpoint", text)
        chain = await ledger.verify_chain("run-1", checkpoint=a_ledger.held["late"], keys=keys)
        assert_found(chain, "held_checkpoint", text)
