"""The executor plugin keeps the contract of stage 12, also with retries and a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from meshflow.testing import ExecutorConformance
from meshflow_executor import ExecutorPlugin


class TestExecutor(ExecutorConformance):
    plugin_type = ExecutorPlugin


class TestExecutorThatRetries(ExecutorConformance):
    plugin_type = ExecutorPlugin
    settings: ClassVar[Mapping[str, Any]] = {
        "retry": {"max_attempts": 3, "backoff_ms": 1},
        "circuit": {"failures": 0},
        "max_concurrent": 100,
    }
