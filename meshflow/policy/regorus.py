"""The embedded engine: regorus, in process.

Measured traits that shape this module: an engine used from another thread than its maker panics, with a BaseException;
evaluation holds the interpreter lock and cannot be interrupted, so a slow rule stalls every thread and its late answer
is judged by the clock; errors carry a stack dump where RUST_BACKTRACE is set, and may quote the input.

Since a thread of its own would not keep the event loop from stalling, a step is evaluated on the thread that asks, by
an engine made there; only where many threads ask does a dedicated thread serve the rest of them.
"""

from __future__ import annotations

import os
import threading

from meshflow.errors import ConfigError
from meshflow.policy.analysis import Analysis
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import analyse_engine, describe, new_engine
from meshflow.policy.embedded import Engine, EngineCrashError
from meshflow.policy.engine import ENTRY_POINTS, MAX_INPUT_BYTES, PolicyAnswer, PolicyFailure
from meshflow.policy.evaluate import crashed, evaluate_rule
from meshflow.policy.front import BundleEngine
from meshflow.policy.inplace import PerThread
from meshflow.policy.worker import Cell, Worker, WorkerBusyError, freed_here

MAX_WAITING = 4_096
IN_PLACE_THREADS = 4
"""How many threads may have an engine of their own."""

_COMPILE_ERRORS = ("is unsafe", "could not find function", "recursion detected", "expects ")


class RegorusEngine(BundleEngine):
    """Evaluates one bundle with regorus (the PyPI distribution ``gordon-to-regorus``).

    The first ``in_place_threads`` threads that ask get an engine of their own and wait for nobody; all others share one
    on a thread that is started when the first of them asks.
    """

    name = "regorus"
    distribution = "gordon-to-regorus"

    def __init__(
        self,
        bundle: Bundle,
        *,
        max_input_bytes: int = MAX_INPUT_BYTES,
        max_waiting: int = MAX_WAITING,
        in_place_threads: int = IN_PLACE_THREADS,
    ) -> None:
        super().__init__(bundle, max_input_bytes)
        self._max_waiting = max_waiting
        self._here: PerThread[Engine] = PerThread(in_place_threads)
        self._lock = threading.Lock()
        self._worker: Worker[Engine] | None = None
        self._process = 0

    async def start(self) -> None:
        """Parse, check and compile the bundle; ConfigError names file and line."""
        if self._analysis is not None:
            return
        cell = self._here.claim()
        if cell is None:
            self._analysis = await self._thread().call(self._load)
            return
        with freed_here():
            self._analysis = self._load(cell)

    async def close(self) -> None:
        """Give the engines up, after the evaluations that wait."""
        worker, self._worker, self._analysis = self._worker, None, None
        self._here.close()
        if worker is not None and self._process == os.getpid():
            await worker.close()

    async def ask(self, entry_point: str, encoded: bytes) -> PolicyAnswer | PolicyFailure:
        """Evaluate on this thread, or hand the question to the shared one."""
        text = encoded.decode()
        cell = self._here.claim()
        if cell is not None:
            return self._evaluate(cell, entry_point, text)
        try:
            return await self._thread().call(lambda cell: self._evaluate(cell, entry_point, text))
        except WorkerBusyError:
            return PolicyFailure("overloaded", f"more than {self._max_waiting} steps wait for the policy engine")

    def _thread(self) -> Worker[Engine]:
        with self._lock:
            if self._worker is None or self._process != os.getpid():  # a thread does not survive a fork
                self._worker = Worker("meshflow-regorus", self._max_waiting)
                self._process = os.getpid()
            return self._worker

    def _load(self, cell: Cell[Engine]) -> Analysis:
        with self._bundle.errors_placed():
            engine = new_engine(self._bundle)
            analysis = analyse_engine(engine, self._bundle)
            for entry in ENTRY_POINTS:
                if entry.rule in analysis.rules:
                    _probe(engine, entry.rule)
        cell.value = engine
        return analysis

    def _evaluate(self, cell: Cell[Engine], entry_point: str, text: str) -> PolicyAnswer | PolicyFailure:
        engine = cell.value
        if engine is None:
            engine = cell.value = new_engine(self._bundle)
        answer = evaluate_rule(engine, entry_point, text)
        if crashed(answer):
            cell.value = None
        elif self._analysis is not None and self._analysis.uses_print:
            engine.take_prints()  # gathered and dropped: printed input would end on stderr
        return answer


def _probe(engine: Engine, rule: str) -> None:
    """Evaluate once on nothing: what is wrong with the rules themselves shows; what depends on input may."""
    engine.set_input_json("{}")
    try:
        engine.eval_rule_as_json(rule)
    except EngineCrashError:
        raise ConfigError(f"{rule} crashes the policy engine when it is asked about an empty document") from None
    except RuntimeError as error:
        where, message = describe(error)
        if any(sign in message for sign in _COMPILE_ERRORS):
            raise ConfigError(message, where=where) from None
    engine.take_prints()
