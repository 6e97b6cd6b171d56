"""One message on the agent's table: what it asks, what was learnt, and what to tell the sender."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from examples.desk.directives import directives, strings
from examples.desk.understanding import Understanding
from examples.desk.values import Message, ToolCall, ToolResult

Steps = Generator[ToolCall, ToolResult, None]


class CannotGoOnError(Exception):
    """A call did not succeed, so the matter goes to a person."""

    def __init__(self, call: ToolCall, result: ToolResult) -> None:
        super().__init__(f"{call.name} was {result.status}: {result.reason}")
        self.call = call
        self.result = result


@dataclass(slots=True)
class Case:
    """What the agent keeps while it works on a message."""

    message: Message
    asked: Understanding
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    directives: list[str] = field(default_factory=list)
    refunded: set[str] = field(default_factory=set)

    def call(self, name: str, **arguments: Any) -> Generator[ToolCall, ToolResult, Any]:
        """Ask for one tool and return its value; what reads like an instruction in it is kept for later."""
        call = ToolCall(name, arguments)
        result = yield call
        if not result.ok:
            raise CannotGoOnError(call, result)
        if name == "issue_refund":
            self.refunded.add(arguments["order_id"])
        self.directives += [found for text in strings(result.value) for found in directives(text)]
        return result.value

    def found_orders(self) -> list[dict[str, Any]]:
        """Return the orders of the message that exist."""
        return [order for order in self.orders.values() if order["found"]]

    def known(self) -> str:
        """Return all that was learnt, as text."""
        return "\n".join(f"{key}: {value}" for order in self.found_orders() for key, value in order.items())
