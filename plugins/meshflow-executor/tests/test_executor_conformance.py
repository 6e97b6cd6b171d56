"""The executor keeps the contract of stage 12."""

from __future__ import annotations

from meshflow.testing import ExecutorConformance
from meshflow_executor import ExecutorPlugin


class TestExecutor(ExecutorConformance):
    plugin_type = ExecutorPlugin
