"""Graphs of steps that share a state: build them with StateGraph, compile them, run them."""

from meshflow.graph.builder import StateGraph
from meshflow.graph.compiled import CompiledGraph
from meshflow.graph.errors import (
    GraphError,
    GraphRecursionError,
    InvalidGraphError,
    InvalidRunError,
    InvalidUpdateError,
    NodeDeniedError,
    NodeFailedError,
    NodePausedError,
    NodeStoppedError,
    RouteError,
    UnreachableNodeWarning,
)
from meshflow.graph.markers import END, START, Command, Interrupt, Overwrite, Send, node
from meshflow.graph.policies import CachePolicy, RetryPolicy
from meshflow.graph.reducers import add, first, last
from meshflow.graph.result import GraphResult
from meshflow.graph.state import StateSnapshot
from meshflow.graph.task import NodeRun, get_config, get_stream_writer, interrupt

__all__ = [
    "END", "START", "CachePolicy", "Command", "CompiledGraph", "GraphError", "GraphRecursionError", "GraphResult",
    "Interrupt", "InvalidGraphError", "InvalidRunError", "InvalidUpdateError", "NodeDeniedError", "NodeFailedError",
    "NodePausedError", "NodeRun", "NodeStoppedError", "Overwrite", "RetryPolicy", "RouteError", "Send", "StateGraph",
    "StateSnapshot", "UnreachableNodeWarning", "add", "first", "get_config", "get_stream_writer", "interrupt", "last",
    "node",
]  # fmt: skip
