"""A governed durable step, one at a time: its CPU, the shares of Rego and Presidio, its wall time beside the disk's."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import count as counter
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.harness import Row, Work, at_most, beside, folder, in_turn, prose
from meshflow import Decision, NodeInput, RuntimeOutcome, StepRuntime
from meshflow.plugin import NoSettings, Plugin, StepContext, hookimpl

TEXT_CHARS = 1_024
RECORDS_PER_STEP = 2
"""An intent before a step that may have effects, and its outcome."""


class Nothing(Plugin[NoSettings]):
    """Stands where Rego or Presidio is left out: allows, and finds nothing."""

    @hookimpl
    async def evaluate_policy(self, context: StepContext) -> Decision:
        """Stage 5."""
        return Decision.allow()

    @hookimpl
    async def scan_sensitive_data(self, context: StepContext) -> None:
        """Stage 8."""


_NO_REGO = {"policy_evaluation": "nothing"}
_NO_PRESIDIO = {"sensitive_data_scan": {"use": ["nothing"]}, "output_guardrails": {"use": ["guardrails", "rego"]}}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "without rego": _NO_REGO,
    "without presidio": _NO_PRESIDIO,
    "without both": {**_NO_REGO, **_NO_PRESIDIO, "output_guardrails": {"use": ["guardrails"]}},
}


async def handler(text: str) -> str:
    """Stand for a model: answer with the beginning of what was asked."""
    return text[:100]


def governed(ledger: Path, variant: str = "all", **settings: Any) -> StepRuntime:
    """Return a runtime with the default plugins, but for those that the variant leaves out; settings of the ledger."""
    stages = VARIANTS[variant]
    plugins = {"nothing": Nothing(NoSettings())} if stages else None
    return StepRuntime(config={"ledger": {"path": str(ledger), **settings}, "stages": stages}, plugins=plugins)


def steps(run_id: str, seed: int = 1) -> Iterator[NodeInput]:
    """Yield steps of one run, each with 1 KB of text that was not seen before."""
    texts = prose(TEXT_CHARS, seed)
    for number in counter():
        yield NodeInput(node_id="ask", input=next(texts), handler=handler, run_id=run_id, step_id=f"step-{number}")


def completed(outcome: RuntimeOutcome) -> None:
    """Raise unless the step did what was measured."""
    if not outcome.ok:
        raise RuntimeError(f"a measured step did not complete: {outcome.code}: {outcome.reason}")


class BareCommits:
    """The floor under a durable record: rows of a record's size, in WAL with synchronous=FULL, and nothing else."""

    def __init__(self, path: Path, row_bytes: int) -> None:
        self._row = (b"x" * row_bytes,)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, body BLOB)")

    def commit(self, rows: int = 1) -> None:
        """Make rows durable in one transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO records (body) VALUES (?)", [self._row] * rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class SignedCommits:
    """What no signed durable record does without: a bare commit and a signature, in a thread that a loop waits for."""

    def __init__(self, path: Path, row_bytes: int) -> None:
        self._commits = BareCommits(path, row_bytes)
        self._key = Ed25519PrivateKey.generate()
        self._queue: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (waiter := self._queue.get()) is not None:
            self._key.sign(b"x" * 150)
            self._commits.commit()
            waiter.get_loop().call_soon_threadsafe(waiter.set_result, None)

    async def commit(self) -> None:
        """Make a row durable and sign for it."""
        waiter = asyncio.get_running_loop().create_future()
        self._queue.put(waiter)
        await waiter

    def close(self) -> None:
        """End the thread, and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._commits.close()


async def record_bytes(path: Path) -> int:
    """Return how many bytes of rows a record takes in a ledger, which the bare commits then write as well."""
    async with governed(path / "size.db") as runtime:
        for step in islice(steps("size"), 50):
            completed(await runtime.run(step))
    connection = sqlite3.connect(path / "size.db")
    (entries,) = connection.execute("SELECT sum(length(body)) FROM entries").fetchone()
    (payloads,) = connection.execute("SELECT sum(length(data)) FROM payloads").fetchone()
    (records,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    connection.close()
    return int((entries + (payloads or 0)) / records)


async def rows(quick: bool) -> list[Row]:
    """Measure the default runtime on one step at a time."""
    rounds, count = (1, 3) if quick else (15, 60)
    with folder() as path:
        row_bytes = await record_bytes(path)
        bare, signed = BareCommits(path / "bare.db", row_bytes), SignedCommits(path / "signed.db", row_bytes)
        runtimes = {name: governed(path / f"{number}.db", name) for number, name in enumerate(VARIANTS)}
        runtimes["at an interval"] = governed(path / "interval.db", "without both", checkpoint_every=256)

        def work(name: str, runtime: StepRuntime) -> Work:
            waiting = iter(list(islice(steps(f"run-{name}"), count * (rounds + 1))))

            async def run() -> None:
                for step in islice(waiting, count):
                    completed(await runtime.run(step))

            return run

        async def commits() -> None:
            for _ in range(count * RECORDS_PER_STEP):
                bare.commit()

        async def signed_commits() -> None:
            for _ in range(count * RECORDS_PER_STEP):
                await signed.commit()

        for runtime in runtimes.values():
            await runtime.start()
        contestants = {
            "commits": commits,
            "signed": signed_commits,
            **{name: work(name, one) for name, one in runtimes.items()},
        }
        spent = await in_turn(rounds, contestants, count)
        for runtime in runtimes.values():
            await runtime.aclose()
        bare.close()
        signed.close()
    us = {name: one.cpu * 1e6 for name, one in spent.items()}
    wall_us = {name: one.wall * 1e6 for name, one in spent.items()}
    floor = f"{RECORDS_PER_STEP} bare SQLite commits"
    return [
        at_most("durable step without Rego and Presidio: CPU", us["without both"], "us", 400),
        beside(
            "the same with a signature for 256 entries or each second: CPU", us["at an interval"], "us",
            us["without both"], "one for each commit",
        ),
        beside("of which the disk: CPU of the bare commits", us["commits"], "us", us["without both"], "that step"),
        beside(
            "the same, signed, in a thread that is waited for: CPU", us["signed"], "us", us["without both"], "that step"
        ),
        beside("share of Rego: CPU", us["all"] - us["without rego"], "us", us["all"], "the whole step"),
        beside("share of Presidio: CPU", us["all"] - us["without presidio"], "us", us["all"], "the whole step"),
        beside("durable step, all default plugins: CPU", us["all"], "us", us["commits"], floor),
        at_most(
            "durable step: wall time less its CPU", wall_us["all"] - us["all"], "us", 1.3,
            baseline=wall_us["commits"], baseline_is=f"{floor}, wall",
        ),
        beside("durable step: wall time", wall_us["all"], "us", wall_us["commits"], f"{floor}, wall"),
    ]  # fmt: skip
