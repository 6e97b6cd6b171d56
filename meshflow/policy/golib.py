"""OPA's own evaluator in process, by ``opa-golib-python-bindings``: optional, and the judge of the other engines.

Measured traits that shape this module: evaluation releases the interpreter lock, so engines on threads of their own
work side by side; one engine takes one evaluation at a time; a process that forked after an evaluation hangs at the
next one; every call of a built-in that fails is an error, which is what the other engines are set to.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import orjson

from meshflow.errors import ConfigError, ContractError
from meshflow.policy.answer import parse_answer
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import inspect
from meshflow.policy.engine import MAX_INPUT_BYTES, PolicyAnswer, PolicyFailure
from meshflow.policy.front import BundleEngine
from meshflow.policy.opa.messages import failure_of, first_problem
from meshflow.turns import turn

DISTRIBUTION = "opa-golib-python-bindings"
MAX_WAITING = 4_096
ENGINES_SIDE_BY_SIDE = 2
_FORKED = PolicyFailure("engine_forked", "this process was forked after the policy engine had been used")


class GolibEngine(BundleEngine):
    """Evaluates one bundle with OPA's evaluator, on ``engines`` threads with an engine each."""

    name = "golib"
    distribution = DISTRIBUTION

    def __init__(
        self,
        bundle: Bundle,
        *,
        max_input_bytes: int = MAX_INPUT_BYTES,
        max_waiting: int = MAX_WAITING,
        engines: int = ENGINES_SIDE_BY_SIDE,
    ) -> None:
        super().__init__(bundle, max_input_bytes)
        self._max_waiting = max_waiting
        self._engines = engines
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        self._own = threading.local()

    async def start(self) -> None:
        """Check the bundle, then compile it in each engine; ConfigError names file and line."""
        async with turn(self.starting):
            if self._analysis is None:
                await self._start()

    async def _start(self) -> None:
        analysis = inspect(self._bundle, "golib")
        with self._bundle.errors_placed():
            await asyncio.to_thread(new_golib_engine(self._bundle).close)
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(self._engines, "meshflow-golib")
        self._analysis = analysis

    async def close(self) -> None:
        """End the threads, after the evaluations that wait."""
        pool, self._pool, self._analysis = self._pool, None, None
        self._own = threading.local()
        if pool is not None and self._process == os.getpid():
            await asyncio.to_thread(pool.shutdown)

    async def ask(self, entry_point: str, encoded: bytes) -> PolicyAnswer | PolicyFailure:
        """Evaluate on one of the engines' threads."""
        if self._process != os.getpid():
            return _FORKED
        pool = self._pool
        if pool is None:
            raise ContractError("the policy engine was closed while a step was on its way to it")
        if self._waiting >= self._max_waiting:
            return PolicyFailure("overloaded", f"more than {self._max_waiting} steps wait for the policy engine")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self._evaluate, entry_point, encoded)
        finally:
            self._waiting -= 1

    def _evaluate(self, entry_point: str, encoded: bytes) -> PolicyAnswer | PolicyFailure:
        engine = getattr(self._own, "engine", None)
        if engine is None:
            engine = self._own.engine = new_golib_engine(self._bundle)
        return evaluate_encoded(engine, entry_point, encoded)


def evaluate_encoded(engine: Any, entry_point: str, encoded: bytes) -> PolicyAnswer | PolicyFailure:
    """Evaluate a rule on an encoded document."""
    bindings: Any = import_module("opa_bindings")
    try:
        # Parsed again, so that the evaluator sees what the other engines see: the bytes, not the caller's objects.
        raw = engine.eval_document(entry_point.removeprefix("data."), orjson.loads(encoded))
    except bindings.OpaUndefinedError:
        return PolicyFailure("undefined", f"{entry_point} is undefined for this step; give it a default")
    except bindings.OpaError as error:
        return failure_of(error.message)
    return parse_answer(raw)


def new_golib_engine(bundle: Bundle) -> Any:
    """Return an evaluator that holds the bundle, compiled; ConfigError says what is wrong, or what to install."""
    try:
        bindings: Any = import_module("opa_bindings")
    except ImportError:
        raise ConfigError(
            f"the engine golib needs {DISTRIBUTION}: pip install 'meshflow[golib]' on Python 3.14 or later, "
            f"pip install --ignore-requires-python {DISTRIBUTION} before",
            path="plugins.rego.engine",
        ) from None
    engine = bindings.OpaEngine()
    engine.print_handler = _dropped
    try:
        for path, text in bundle.policies.items():
            engine.add_policy(path, text)
        engine.add_data(bundle.data)
        engine.eval_query("true")
    except bindings.OpaError as error:
        engine.close()
        where, message = first_problem(error.message)
        raise ConfigError(message, where=where or bundle.name) from None
    return engine


def _dropped(message: str, location: str) -> None:
    """Print nothing: printed input would end on stderr."""
