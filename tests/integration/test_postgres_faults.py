"""A ledger in PostgreSQL when connections die, the server stops, stalls or is replaced, and processes are killed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshflow.errors import ConfigError, LedgerError
from meshflow.ledger import Intent, ReplayLedger
from tests.servers import PostgresServer, owned_database, postgres_server

SOAK = os.environ.get("MESHFLOW_SOAK") == "full"


def step(number: int, run_id: str = "run-1", **more: Any) -> dict[str, Any]:
    return {"run_id": run_id, "node_id": "n", "step_id": f"s{number}", "output_content": f"answer {number}"} | more


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the signing key comes to lie


@pytest.fixture
def own(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with postgres_server(fsync="on", full_page_writes="on") as server:
        owned_database(server)
        yield server


@pytest.fixture
async def ledger(postgres_url: str) -> AsyncIterator[ReplayLedger]:
    async with ReplayLedger(postgres_url) as ledger:
        await ledger.open()
        yield ledger


def end_connections(server: PostgresServer, where: str = "true") -> int:
    rows = server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meshflow' "
        f"AND datname = 'ledgers' AND {where}"
    )
    return len(rows)


async def whole(ledger: ReplayLedger, count: int) -> None:
    """The ledger holds exactly so many entries, and all of them verify."""
    result = await ledger.verify_ledger()
    assert (result["valid"], result["errors"], result["entries"]) == (True, [], count)


async def test_connections_that_were_ended_are_replaced_unnoticed(
    ledger: ReplayLedger, postgres: PostgresServer
) -> None:
    for number in range(5):
        await ledger.write(step(number))
        assert len(await ledger.get_run("run-1")) == number + 1
        assert end_connections(postgres) >= 2
    await whole(ledger, 5)


async def test_whoever_reads_may_pause_longer_than_whoever_writes(
    ledger: ReplayLedger, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where other processes verify ranges, or the reader of a long export takes its time."""
    monkeypatch.setattr("meshflow.ledger.postgres.database._IDLE_IN_TRANSACTION_MS", 100)
    await ledger.write(step(0))
    async with ReplayLedger(postgres_url) as other:
        connection = await other._store._connected(scoped=False)  # type: ignore[attr-defined]

        def read() -> list[Any]:
            found = []
            for pause in (0, 0.5):
                time.sleep(pause)
                found.append(connection.execute("SELECT count(*) FROM entries").fetchone())
            return found

        assert await asyncio.to_thread(read) == [(1,), (1,)]
        connection.close()


async def test_a_connection_killed_in_the_middle_of_batches_loses_and_repeats_nothing(
    ledger: ReplayLedger, postgres: PostgresServer
) -> None:
    killed = 0

    async def kill() -> None:
        nonlocal killed
        for _ in range(25):
            await asyncio.sleep(random.uniform(0.005, 0.03))
            killed += await asyncio.to_thread(end_connections, postgres, "state <> 'idle'")

    async def write(number: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.6))
        await ledger.write(step(number, f"run-{number % 5}"))

    async def intend(number: int) -> None:
        """An intent may not be taken for another one that came before, as a step may."""
        await asyncio.sleep(random.uniform(0, 0.6))
        await ledger.write_intent(Intent(run_id="intents", step_id=f"s{number}", node_id="n"))

    # All of them are kept: a batch is sent again once it is certain that it was not.
    await asyncio.gather(kill(), *(write(n) for n in range(300)), *(intend(n) for n in range(100)))
    assert killed
    await whole(ledger, 400)


async def test_a_commit_whose_answer_is_lost_is_found_to_have_gone_through(
    ledger: ReplayLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = ledger._store._database  # type: ignore[attr-defined]
    commit, cut = type(database).commit, []

    def commit_and_cut(self: Any, connection: Any) -> None:
        commit(self, connection)
        if not cut:
            cut.append(True)
            connection._raw.terminate()
            connection.script("SELECT 1")

    monkeypatch.setattr(type(database), "commit", commit_and_cut)
    first = await ledger.write_intent(Intent(run_id="run-1", step_id="a", node_id="n"))
    assert cut
    second = await ledger.write(step(1))
    assert (first.seq, first.position, second.seq, second.position) == (0, 0, 1, 1)
    await whole(ledger, 2)


async def test_a_commit_that_never_arrived_is_done_again(ledger: ReplayLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    database = ledger._store._database  # type: ignore[attr-defined]
    commit, cut = type(database).commit, []

    def cut_and_commit(self: Any, connection: Any) -> None:
        if not cut:
            cut.append(True)
            connection._raw.terminate()
        commit(self, connection)

    monkeypatch.setattr(type(database), "commit", cut_and_commit)
    assert (await ledger.write_intent(Intent(run_id="run-1", step_id="a", node_id="n"))).position == 0
    assert cut
    await whole(ledger, 1)


async def test_what_leaves_no_entry_says_that_it_is_not_known_whether_it_was_kept(
    ledger: ReplayLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.write(step(0))
    database = ledger._store._database  # type: ignore[attr-defined]
    commit = type(database).commit

    def commit_and_cut(self: Any, connection: Any) -> None:
        commit(self, connection)
        monkeypatch.undo()
        os.chdir(Path.cwd())
        connection._raw.terminate()
        connection.script("SELECT 1")

    monkeypatch.setattr(type(database), "commit", commit_and_cut)
    with pytest.raises(LedgerError, match="whether it was kept is not known"):
        await ledger.rotate_key()


async def test_a_server_that_restarts_is_found_again(own: PostgresServer) -> None:
    async with ReplayLedger(own.url("ledgers", "owner"), busy_timeout_ms=20_000) as ledger:
        await ledger.write(step(0))
        assert len(await ledger.get_run("run-1")) == 1
        await asyncio.to_thread(own.stop, signal.SIGQUIT)  # as if it crashed
        waiting = asyncio.create_task(ledger.write(step(1)))
        with pytest.raises(LedgerError, match="cannot be reached"):
            await ledger.get_run("run-1")
        await asyncio.to_thread(own.start)
        assert (await waiting).seq == 1
        assert len(await ledger.get_run("run-1")) == 2
        await whole(ledger, 2)


async def test_a_server_that_stays_away_fails_writes_clearly_and_at_once_thereafter(own: PostgresServer) -> None:
    async with ReplayLedger(own.url("ledgers", "owner"), busy_timeout_ms=300) as ledger:
        await ledger.write(step(0))
        await asyncio.to_thread(own.stop)
        for _ in range(2):
            with pytest.raises(LedgerError, match="cannot be reached; is it running"):
                await ledger.write(step(1))
        began = time.monotonic()
        with pytest.raises(LedgerError):
            await ledger.write(step(2))
        assert time.monotonic() - began < 0.3
        await asyncio.to_thread(own.start)
        await ledger.write(step(1))
        await whole(ledger, 2)


async def test_a_server_that_is_down_when_the_ledger_opens_is_named_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql://owner:hunter2@/ledgers?host={tmp_path}&password=hunter3"
    async with ReplayLedger(url) as ledger:
        for call in (ledger.open(), ledger.list_runs(), ledger.write(step(0)), ledger.verify_chain("run-1")):
            with pytest.raises(LedgerError, match="cannot be reached") as caught:
                await call
            seen = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {ledger.name} {ledger!r} {vars(ledger)}"
            assert "hunter" not in seen


async def test_a_wrong_password_is_refused_and_never_shown(
    own: PostgresServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    hba = own.data / "pg_hba.conf"
    own.sql("ALTER ROLE owner PASSWORD 'right-horse'")
    hba.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    own.sql("SELECT pg_reload_conf()")
    caplog.set_level(logging.DEBUG)
    url = own.url("ledgers", "owner").replace("owner@", "owner:{}@")
    async with ReplayLedger(url.format("wrong-hunter2")) as ledger:
        with pytest.raises(LedgerError, match="refuses the password") as caught:
            await ledger.write(step(0))
        assert "hunter2" not in str(caught.value)
    async with ReplayLedger(url.format("right-horse")) as ledger:
        await ledger.write(step(0))
        (found,) = await ledger.get_run("run-1")
        assert "horse" not in str(found)
        assert "horse" not in str(await ledger.health())
    captured = capfd.readouterr()
    assert "hunter2" not in caplog.text + captured.out + captured.err
    assert "horse" not in caplog.text + captured.out + captured.err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@h:notaport/db", "postgresql://u:hunter2@[h/db", "postgresql://u:hunter2@h/db?schema=a;b",
        "postgresql://u:hunter2@h/db?pool_size=0", "postgresql://u:hunter2@h/db?pool_timeout_ms=x",
        "postgresql://u:hunter2#2@h/db", "postgresql://u:hunter2@h/db?sslmode=hunter2",
    ],
)  # fmt: skip
async def test_an_ill_formed_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises((ConfigError, LedgerError)) as caught:
        async with ReplayLedger(url) as ledger:
            await ledger.open()
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


async def test_reads_that_find_no_connection_wait_for_a_while_and_say_so(postgres_url: str) -> None:
    async with ReplayLedger(f"{postgres_url}&pool_size=2&pool_timeout_ms=200") as ledger:
        for number in range(600):
            await ledger.write(step(number)) if number < 3 else None
        await asyncio.gather(*(ledger.write(step(n)) for n in range(3, 600)))
        exports = [ledger._store.history("run-1", None) for _ in range(2)]
        for export in exports:
            await anext(export)
        began = time.monotonic()
        with pytest.raises(LedgerError, match="all 2 reading connections were busy for 200 ms; raise pool_size"):
            await ledger.get_run("run-1")
        assert 0.2 <= time.monotonic() - began < 5
        await ledger.write(step(600))  # which has a connection of its own
        waiting = asyncio.create_task(ledger.list_runs())
        await exports[0].aclose()  # type: ignore[attr-defined]
        assert await waiting == ["run-1"]
        await exports[1].aclose()  # type: ignore[attr-defined]


async def test_reads_that_are_cancelled_give_their_connection_back(postgres_url: str) -> None:
    async with ReplayLedger(f"{postgres_url}&pool_size=2&pool_timeout_ms=5000") as ledger:
        await asyncio.gather(*(ledger.write(step(n)) for n in range(50)))
        for delay in (0, 0.0005, 0.001, 0.002, 0.004, 0.008) * 5:
            tasks = [asyncio.create_task(call) for call in (
                ledger.get_run("run-1"), ledger.verify_chain("run-1"), ledger.export_run("run-1"),
                ledger.list_runs(node="n"), ledger.prove("run-1", 0),
            )]  # fmt: skip
            await asyncio.sleep(delay)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert len(await ledger.get_run("run-1")) == 50
        pool = ledger._store._database._pool  # type: ignore[attr-defined]
        deadline = time.monotonic() + 5
        while pool._out and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert pool._out == 0


async def test_many_more_reads_than_connections_are_all_answered(postgres_url: str) -> None:
    async with ReplayLedger(f"{postgres_url}&pool_size=3") as ledger:
        await asyncio.gather(*(ledger.write(step(n, f"run-{n % 4}")) for n in range(40)))
        found = await asyncio.gather(*(ledger.get_run(f"run-{n % 4}") for n in range(200)))
    assert {len(steps) for steps in found} == {10}


async def test_a_statement_that_takes_too_long_is_cut_off_and_says_so(postgres_url: str) -> None:
    async with ReplayLedger(postgres_url) as ledger:
        await asyncio.gather(*(ledger.write(step(n)) for n in range(2_000)))
    async with ReplayLedger(f"{postgres_url}&statement_timeout=1") as ledger:
        reads = [ledger.verify_chain("run-1") for _ in range(20)]
        with pytest.raises(LedgerError, match="statement_timeout"):
            await asyncio.gather(*reads)


async def test_another_process_that_keeps_the_lock_is_not_waited_for_forever(
    postgres: PostgresServer, postgres_url: str
) -> None:
    import asyncpg

    schema = postgres_url.partition("schema=")[2]
    async with ReplayLedger(postgres_url, busy_timeout_ms=200) as ledger:
        await ledger.write(step(0))
        other = await asyncpg.connect(postgres.url("ledgers", "owner"))
        try:
            async with other.transaction():
                await other.fetch(f"SELECT 1 FROM {schema}.log FOR UPDATE")
                with pytest.raises(LedgerError, match="kept it locked for too long"):
                    await ledger.write(step(1))
        finally:
            await other.close()
        await ledger.write(step(1))
        await whole(ledger, 2)


@pytest.mark.parametrize("setting", ["off", "local", "remote_write"])
async def test_a_server_that_would_acknowledge_too_early_is_refused(postgres_url: str, setting: str) -> None:
    async with ReplayLedger(f"{postgres_url}&synchronous_commit={setting}") as ledger:
        with pytest.raises(LedgerError, match=f"synchronous_commit is {setting}"):
            await ledger.write(step(0))


async def test_a_setting_that_the_server_does_not_know_is_named(postgres_url: str) -> None:
    async with ReplayLedger(f"{postgres_url}&synchronous_comit=on") as ledger:
        with pytest.raises(LedgerError, match=r"spelt right.*synchronous_comit"):
            await ledger.open()


async def test_a_promoted_standby_is_found_and_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    """Two servers, the second a standby that the first one waits for; the first is killed, the second promoted."""
    with postgres_server(synchronous_standby_names="standby", wal_level="replica", fsync="on") as first:
        first.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
        owned = asyncio.to_thread(owned_database, first)
        with postgres_server() as second:
            await asyncio.to_thread(second.stop)
            # The role is made before the standby is there, so it must not wait for it.
            first.stop()
            first._settings["synchronous_standby_names"] = ""
            first.start()
            await owned
            second.clone(first)
            first.stop()
            first._settings["synchronous_standby_names"] = "standby"
            first.start()
            second.start()
            hosts = f"host={first.folder},{second.folder}&port={first.port},{second.port}"
            url = f"postgresql://owner@/ledgers?{hosts}&target_session_attrs=read-write"
            async with ReplayLedger(url, busy_timeout_ms=30_000) as ledger:
                await asyncio.gather(*(ledger.write(step(n)) for n in range(50)))
                async with ReplayLedger(second.url("ledgers", "owner")) as standby:
                    with pytest.raises(LedgerError, match="takes no writes, as a standby"):
                        await standby.open()
                writes = [asyncio.create_task(ledger.write(step(n))) for n in range(50, 80)]
                await asyncio.sleep(0.01)
                await asyncio.to_thread(first.stop, signal.SIGQUIT)
                await asyncio.sleep(0.2)
                await asyncio.to_thread(second.command, "pg_ctl", "promote", "-D", second.data, "-w")
                done = await asyncio.gather(*writes, return_exceptions=True)
                assert not [one for one in done if isinstance(one, BaseException)]
                await ledger.write(step(80))
                assert len(await ledger.get_run("run-1")) == 81
                await whole(ledger, 81)


WRITER = """
import asyncio, sys
from meshflow import ReplayLedger

async def main(url, name):
    async with ReplayLedger(url) as ledger:
        number = 0
        while True:
            batch = [
                {"run_id": f"{name}-{n % 3}", "node_id": "n", "step_id": f"s{number}-{n}", "output_content": "x" * 300}
                for n in range(6)
            ] + [{"run_id": "shared", "node_id": "n", "step_id": f"{name}-{number}"}]
            for written in await asyncio.gather(*(ledger.write(one) for one in batch)):
                sys.stdout.write(f"{written.run_id} {written.step_id} {written.entry_hash}\\n")
            sys.stdout.flush()
            number += 1

asyncio.run(main(*sys.argv[1:]))
"""


async def killed_writers(url: str, processes: int, tries: int, pause: tuple[float, float]) -> dict[str, str]:
    """Kill writing processes at random and start others; return what was acknowledged, by run and step."""
    acknowledged: dict[str, str] = {}
    numbers = iter(range(10**6))

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, url, f"w{next(numbers)}"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip

    def reap(process: subprocess.Popen[str]) -> None:
        process.kill()
        out, _ = process.communicate()
        for line in out.splitlines(keepends=True):
            if line.endswith("\n"):
                run_id, step_id, digest = line.split()
                acknowledged[f"{run_id} {step_id}"] = digest

    running = [start() for _ in range(processes)]
    try:
        for _ in range(tries):
            await asyncio.sleep(random.uniform(*pause))
            victim = running.pop(random.randrange(len(running)))
            await asyncio.to_thread(reap, victim)
            running.append(start())
    finally:
        for process in running:
            await asyncio.to_thread(reap, process)
    return acknowledged


async def assert_all_there(url: str, acknowledged: dict[str, str]) -> None:
    async with ReplayLedger(url) as ledger:
        result = await ledger.verify_ledger()
        assert (result["valid"], result["errors"]) == (True, [])
        there = {
            f"{run_id} {one['step_id']}": one["entry_hash"]
            for run_id in await ledger.list_runs(limit=10_000)
            for one in await ledger.get_run(run_id)
        }
    assert acknowledged
    assert {key: there.get(key) for key in acknowledged} == acknowledged


@pytest.mark.slow
async def test_killed_writers_leave_every_acknowledged_record_and_nothing_half(postgres_url: str) -> None:
    acknowledged = await killed_writers(postgres_url, processes=2, tries=4, pause=(0.9, 1.6))
    await assert_all_there(postgres_url, acknowledged)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="MESHFLOW_SOAK=full runs the full count")
async def test_two_hundred_kills_with_eight_writers(own: PostgresServer) -> None:
    url = own.url("ledgers", "owner")
    await assert_all_there(url, await killed_writers(url, processes=8, tries=200, pause=(0.1, 1.0)))
