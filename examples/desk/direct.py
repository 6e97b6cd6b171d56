"""A driver that executes whatever the agent asks for, with nothing in between: what governance is compared with."""

from __future__ import annotations

from examples.desk.agent import work
from examples.desk.tools import Desk
from examples.desk.understanding import understand
from examples.desk.values import Message, Reply, ToolCall, ToolResult

Trace = list[tuple[ToolCall, ToolResult]]


def run_ungoverned(desk: Desk, message: Message) -> tuple[Reply, Trace]:
    """Work through one message and return the reply with every call and its result."""
    trace: Trace = []
    steps = work(message)
    call = next(steps)
    while True:
        result = execute(desk, call)
        trace.append((call, result))
        try:
            call = steps.send(result)
        except StopIteration as finished:
            return finished.value, trace


def execute(desk: Desk, call: ToolCall) -> ToolResult:
    """Execute one call; whatever a tool raises is a failed result, since an agent has to live with it."""
    try:
        if call.kind == "model":
            return ToolResult("ok", understand(call.arguments["text"]).as_dict())
        return ToolResult("ok", desk.execute(call.name, call.arguments))
    except Exception as error:  # a driver's boundary: the tool may raise anything
        return ToolResult("failed", reason=f"{type(error).__name__}: {error}")
