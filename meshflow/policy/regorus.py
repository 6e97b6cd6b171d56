"""The embedded engine: regorus, in process, on one thread of its own.

Measured traits that shape this module: an engine used from another thread panics, with a BaseException; evaluation
holds the interpreter lock and cannot be interrupted, so a slow rule stalls the event loop and its late answer is judged
by the clock; errors carry a stack dump where RUST_BACKTRACE is set, and may quote the input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Protocol

import orjson

from meshflow.errors import ConfigError, ContractError
from meshflow.policy.analysis import Analysis, analyse
from meshflow.policy.answer import parse_answer
from meshflow.policy.bundle import Bundle
from meshflow.policy.encode import encode
from meshflow.policy.engine import ENTRY_POINTS, MAX_INPUT_BYTES, PolicyAnswer, PolicyFailure
from meshflow.policy.source import check_source
from meshflow.policy.worker import Cell, Worker, WorkerBusyError

MAX_WAITING = 4_096
_UNDEFINED = '"<undefined>"'
_PLACE = re.compile(r"^--> (.+):(\d+):\d+$", re.MULTILINE)
_MESSAGE = re.compile(r"^error: (.*)$", re.MULTILINE)
_COMPILE_ERRORS = ("is unsafe", "could not find function", "recursion detected", "expects ")
_CONFLICTS = ("rule conflicts", "rules must not produce", "functions must not produce", "value for key")


class Engine(Protocol):
    """What is used of ``regorus.Engine``, which has no types of its own."""

    def add_policy(self, path: str, rego: str, /) -> str: ...

    def add_data_json(self, data: str, /) -> None: ...

    def set_gather_prints(self, gather: bool, /) -> None: ...

    def take_prints(self) -> list[str]: ...

    def set_input_json(self, document: str, /) -> None: ...

    def eval_rule_as_json(self, rule: str, /) -> str: ...

    def eval_query(self, query: str, /) -> Any: ...

    def get_ast_as_json(self) -> str: ...


class RegorusEngine:
    """Evaluates one bundle with regorus (the PyPI distribution ``gordon-to-regorus``)."""

    name = "regorus"

    def __init__(
        self, bundle: Bundle, *, max_input_bytes: int = MAX_INPUT_BYTES, max_waiting: int = MAX_WAITING
    ) -> None:
        self._bundle = bundle
        self._max_input_bytes = max_input_bytes
        self._max_waiting = max_waiting
        self._worker: Worker[Engine] | None = None
        self._analysis: Analysis | None = None
        self._process = 0

    @property
    def version(self) -> str:
        """The version of the distribution."""
        return version("gordon-to-regorus")

    @property
    def bundle_digest(self) -> str:
        """The sha256 of the bundle."""
        return self._bundle.digest

    async def start(self) -> None:
        """Parse, check and compile the bundle on the engine's thread; ConfigError names file and line."""
        if self._worker is None or self._process != os.getpid():  # a thread does not survive a fork
            self._worker, self._analysis = Worker("meshflow-regorus", self._max_waiting), None
            self._process = os.getpid()
        if self._analysis is None:
            self._analysis = await self._worker.call(self._load)

    async def close(self) -> None:
        """End the thread, after the evaluations that wait."""
        worker, self._worker, self._analysis = self._worker, None, None
        if worker is not None and self._process == os.getpid():
            await worker.close()

    def has(self, entry_point: str) -> bool:
        """Return whether the bundle defines the rule."""
        if self._analysis is None:
            raise ContractError("start the policy engine before asking what its bundle defines")
        return entry_point in self._analysis.rules

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        """Evaluate a rule. The document is encoded before this first waits, so later changes to it do not count."""
        encoded = encode(document, self._max_input_bytes)
        if isinstance(encoded, PolicyFailure):
            return encoded
        if self._analysis is None or self._process != os.getpid():
            await self.start()
        if not self.has(entry_point):
            return PolicyFailure("undefined", f"the bundle has no rule {entry_point}")
        text = encoded.decode()
        worker = self._worker
        if worker is None:
            raise ContractError("the policy engine was closed while a step was on its way to it")
        try:
            return await worker.call(lambda cell: self._evaluate(cell, entry_point, text))
        except WorkerBusyError:
            return PolicyFailure("overloaded", f"more than {self._max_waiting} steps wait for the policy engine")

    # What follows runs on the worker's thread.

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
        try:
            engine.set_input_json(text)
            result = engine.eval_rule_as_json(entry_point)
            if self._analysis is not None and self._analysis.uses_print:
                engine.take_prints()  # gathered and dropped: printed input would end on stderr
        except RuntimeError as error:
            return _failure(error)
        except BaseException as error:
            if not _is_panic(error):
                raise
            cell.value = None  # what a panic leaves behind is not used again
            return PolicyFailure("engine_crashed", "the policy engine crashed while it evaluated this step")
        if result == _UNDEFINED:
            return PolicyFailure("undefined", f"{entry_point} is undefined for this step; give it a default")
        return parse_answer(orjson.loads(result))


def new_engine(bundle: Bundle) -> Engine:
    """Return an engine that holds the bundle, parsed; only for the thread that calls. ConfigError names file:line."""
    import regorus  # type: ignore[import-untyped]

    engine: Engine = regorus.Engine()
    engine.set_gather_prints(True)
    for path, text in bundle.policies.items():
        check_source(text, path)
        _guarded(engine.add_policy, path, text, file=path)
    _guarded(engine.add_data_json, bundle.data_json.decode(), file="data")
    return engine


def analyse_engine(engine: Engine, bundle: Bundle) -> Analysis:
    """Check what the bundle defines and calls against what this engine knows, then have it compiled."""
    import regorus

    asked = regorus.Engine().eval_query("opa.runtime().builtins")
    known = frozenset(asked["result"][0]["expressions"][0]["value"])
    analysis = analyse(orjson.loads(engine.get_ast_as_json()), known, bundle.data)
    engine.set_input_json("{}")
    _guarded(engine.eval_query, "true", file=bundle.name)
    return analysis


def _probe(engine: Engine, rule: str) -> None:
    """Evaluate once on nothing: what is wrong with the rules themselves shows; what depends on input may."""
    engine.set_input_json("{}")
    try:
        engine.eval_rule_as_json(rule)
    except RuntimeError as error:
        where, message = describe(error)
        if any(sign in message for sign in _COMPILE_ERRORS):
            raise ConfigError(message, where=where) from None
    finally:
        engine.take_prints()


def _guarded(action: Any, *arguments: str, file: str) -> None:
    try:
        action(*arguments)
    except RuntimeError as error:
        where, message = describe(error)
        raise ConfigError(message, where=where or file) from None
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise ConfigError("the policy engine crashed while it read the bundle", where=file) from None


def describe(error: RuntimeError) -> tuple[str, str]:
    """Return ``file:line`` and the message of an engine's error, without snippet and stack dump.

    The message may quote values: it is for those who load or test a bundle, never for a step's reason.
    """
    text = str(error).split("\n\nStack backtrace:", 1)[0]
    place, message = _PLACE.search(text), _MESSAGE.search(text)
    where = f"{place[1]}:{place[2]}" if place else ""
    return where, message[1] if message else text.strip().splitlines()[0]


def _failure(error: RuntimeError) -> PolicyFailure:
    where, message = describe(error)
    at = f" at {where}" if where else ""
    if message.startswith(_CONFLICTS):
        return PolicyFailure("conflict", f"two rules give different answers{at}")
    if "could not find function" in message:
        return PolicyFailure("builtin_missing", f"a rule calls a function that the engine lacks{at}")
    return PolicyFailure("engine_error", f"the policy engine failed to evaluate a rule{at}")


def _is_panic(error: BaseException) -> bool:
    # pyo3's PanicException derives from BaseException and cannot be imported.
    return type(error).__name__ == "PanicException"
