"""Drive the agent with every call a governed step: the only place where the desk and meshflow meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from examples.desk.agent import work
from examples.desk.declarations import TOOLS
from examples.desk.journal import Waiting
from examples.desk.tokens import AGENT, TokenDesk
from examples.desk.tools import Desk
from examples.desk.understanding import understand, understanding_cost_usd
from examples.desk.values import Message, Reply, ToolCall, ToolResult
from meshflow import Metered, NodeInput, RuntimeOutcome, Status, StepRuntime
from meshflow.facts import Confidentiality, Origin, TaintLabels

RESULT_OF = {Status.DENIED: "denied", Status.PAUSED: "paused", Status.FAILED: "failed"}


class Driver:
    """Takes messages through the agent. Each message is a run of its own, each call a step of it."""

    def __init__(self, runtime: StepRuntime, desk: Desk, tokens: TokenDesk, batch: str) -> None:
        self._runtime = runtime
        self._desk = desk
        self._tokens = tokens
        self._batch = batch
        self.waiting: list[Waiting] = []

    async def handle(self, message: Message) -> Reply:
        """Work through one message; what a person must approve is put on ``waiting``."""
        run_id = f"{self._batch}-{message.id}"
        token = self._tokens.token(message.tenant)
        metadata: dict[str, Any] = {"message": message.id, "sender": message.sender.email, "owners": {}}
        agent = work(message)
        call, number = next(agent), 1
        while True:
            step = self._step(call, metadata, message)
            outcome = await self._runtime.run(_placed(step, run_id, f"{number:02d}-{call.name}", token))
            if outcome.status is Status.PAUSED:
                self.waiting.append(_waiting(message.id, outcome, call, metadata))
            _remember(metadata, call, outcome)
            try:
                call = agent.send(_result(outcome))
            except StopIteration as finished:
                reply: Reply = finished.value
                return reply
            number += 1

    async def resume(self, waiting: Waiting) -> RuntimeOutcome:
        """Hand a paused call in again; it runs if a person has approved just this."""
        call = ToolCall(waiting.tool, waiting.arguments)
        step = self._tool_step(call, waiting.metadata)
        return await self._runtime.run(_placed(step, waiting.run_id, waiting.step_id, None, resume=True))

    def _step(self, call: ToolCall, metadata: Mapping[str, Any], message: Message) -> dict[str, Any]:
        if call.kind == "tool":
            return self._tool_step(call, metadata)
        origin = Origin.EXTERNAL if message.attachments else Origin.USER
        return {
            "node_id": call.name,
            "kind": "model",
            "input": call.arguments["text"],
            "handler": _understand,
            "estimate_usd": understanding_cost_usd(call.arguments["text"]),
            "labels": TaintLabels(origin, Confidentiality.INTERNAL, (message.channel,)),
            "metadata": {"message": metadata["message"], "sender": metadata["sender"]},
        }

    def _tool_step(self, call: ToolCall, metadata: Mapping[str, Any]) -> dict[str, Any]:
        spec = TOOLS.get(call.name)
        return {
            "node_id": call.name,
            "kind": "tool",
            "tool": call.name,
            "input": dict(call.arguments),
            "handler": self._handler(call.name),
            "estimate_usd": spec.cost_usd if spec is not None else 0,
            "idempotent": spec.idempotent if spec is not None else False,
            "metadata": {**metadata, "owners": dict(metadata["owners"])},
        }

    def _handler(self, tool: str) -> Callable[[Mapping[str, Any]], Metered]:
        def run(arguments: Mapping[str, Any]) -> Metered:
            return Metered(self._desk.execute(tool, arguments), cost_usd=TOOLS[tool].cost_usd)

        return run


def _understand(text: str) -> Metered:
    return Metered(understand(text).as_dict(), cost_usd=understanding_cost_usd(text), tokens=len(text) // 4)


def _placed(
    step: Mapping[str, Any], run_id: str, step_id: str, token: str | None, *, resume: bool = False
) -> NodeInput:
    return NodeInput(**step, run_id=run_id, step_id=step_id, credential=token, agent_id=AGENT, resume=resume)


def _result(outcome: RuntimeOutcome) -> ToolResult:
    if outcome.ok:
        return ToolResult("ok", outcome.output)
    status: Any = RESULT_OF[outcome.status]
    return ToolResult(status, reason=outcome.code)


def _waiting(message_id: str, outcome: RuntimeOutcome, call: ToolCall, metadata: Mapping[str, Any]) -> Waiting:
    return Waiting(
        message_id=message_id,
        run_id=outcome.run_id,
        step_id=outcome.step_id,
        approval_id=outcome.approval_id or "",
        tool=call.name,
        arguments=dict(call.arguments),
        metadata={**metadata, "owners": dict(metadata["owners"])},
    )


def _remember(metadata: dict[str, Any], call: ToolCall, outcome: RuntimeOutcome) -> None:
    """Keep what policy goes by: what the message itself asked for, and whose the orders are that were looked up."""
    if not outcome.ok:
        return
    if call.kind == "model":
        metadata["asked"] = {name: outcome.output[name] for name in ("intents", "new_address", "refund_cents")}
    elif call.name == "lookup_order" and outcome.output.get("found"):
        metadata["owners"][outcome.output["order_id"]] = outcome.output["customer_email"]
