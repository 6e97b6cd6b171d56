"""The embedded engine's object: with types, its crashes as errors, and freed by the thread that made it or nobody."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from threading import get_native_id
from typing import Any

_keep: Callable[[object], None] = ctypes.pythonapi.Py_IncRef
ctypes.pythonapi.Py_IncRef.argtypes = [ctypes.py_object]
ctypes.pythonapi.Py_IncRef.restype = None


class EngineCrashError(RuntimeError):
    """The engine panicked; what a panic leaves behind must not be used again."""


class Engine:
    """``regorus.Engine``, for the thread that makes it. What it refuses raises RuntimeError.

    The library complains on stderr, or in whatever code runs just then, where another thread frees its object. A fork,
    the interpreter's end and the cycle collector do so without asking: they find one that they cannot free, and the
    memory stays taken.
    """

    __slots__ = ("_engine", "_thread")

    def __init__(self) -> None:
        import regorus  # type: ignore[import-untyped]

        self._thread = get_native_id()
        self._engine: Any = regorus.Engine()

    # The defaults hold what a module that is being torn down no longer has.
    def __del__(self, _here: Callable[[], int] = get_native_id, _keep: Callable[[object], None] = _keep) -> None:
        if self._thread != _here():
            _keep(self._engine)

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return getattr(self._engine, method)(*arguments)  # no name for it: a frame could carry it off
        except Exception:
            raise
        except BaseException as error:
            # pyo3's PanicException derives from BaseException, so that no handler takes it, and cannot be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise EngineCrashError("the policy engine crashed") from None

    def add_policy(self, path: str, rego: str, /) -> None:
        """Parse a policy text."""
        self._call("add_policy", path, rego)

    def add_data_json(self, data: str, /) -> None:
        """Merge a data document."""
        self._call("add_data_json", data)

    def set_gather_prints(self, gather: bool, /) -> None:
        """Keep what rules print for ``take_prints``."""
        self._call("set_gather_prints", gather)

    def take_prints(self) -> list[str]:
        """Return what rules printed since the last call."""
        prints: list[str] = self._call("take_prints")
        return prints

    def set_input_json(self, document: str, /) -> None:
        """Set ``input``."""
        self._call("set_input_json", document)

    def eval_rule_as_json(self, rule: str, /) -> str:
        """Return a rule's value; the text ``"<undefined>"`` where it has none."""
        value: str = self._call("eval_rule_as_json", rule)
        return value

    def eval_query(self, query: str, /) -> Any:
        """Return a query's solutions."""
        return self._call("eval_query", query)

    def get_ast_as_json(self) -> str:
        """Return the syntax trees of all policies."""
        trees: str = self._call("get_ast_as_json")
        return trees

    def set_enable_coverage(self, enable: bool, /) -> None:
        """Count the lines that evaluations reach."""
        self._call("set_enable_coverage", enable)

    def get_coverage_report_as_json(self) -> str:
        """Return the lines reached and missed, by file."""
        report: str = self._call("get_coverage_report_as_json")
        return report
