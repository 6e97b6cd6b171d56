"""Run a step's handler within its limits: time, tries, workers, and a circuit that opens when it keeps failing."""

from meshflow_executor.codes import CODES
from meshflow_executor.executor import ExecutorPlugin
from meshflow_executor.settings import ExecutorSettings
from meshflow_executor.stream import StreamTimeoutError

__all__ = ["CODES", "ExecutorPlugin", "ExecutorSettings", "StreamTimeoutError"]
