"""Messages between agents: each one is a governed, recorded step, and arrives as the gates left it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshflow.facts import TaintLabels
from meshflow.mesh.events import MeshEvent
from meshflow.record import RuntimeOutcome
from meshflow.step import NodeInput

if TYPE_CHECKING:
    from meshflow.agent import Agent, AgentResult
    from meshflow.kernel.runtime import StepRuntime


@dataclass(frozen=True, slots=True)
class Message:
    """A message that arrived."""

    sender: str
    receiver: str
    content: Any
    run_id: str
    step_id: str


class Messages:
    """Sends messages, and keeps what has arrived until it is read."""

    def __init__(self, runtime: StepRuntime, known: Callable[[str], Agent], tell: Callable[..., None]) -> None:
        self._runtime = runtime
        self._known = known
        self._tell = tell
        self._inboxes: dict[str, list[Message]] = {}

    async def send(
        self, sender: str, receiver: str, content: Any, *, run_id: str | None = None, credential: str | None = None,
        tenant: str | None = None, labels: TaintLabels | None = None, reads: tuple[str, ...] = (),
    ) -> RuntimeOutcome:  # fmt: skip
        """Send a message from one registered agent to another; it arrives only if the step completes.

        A policy sees a step of kind ``agent`` with the action ``send`` and the input sender, receiver, content.
        """
        self._known(sender), self._known(receiver)
        step = NodeInput(
            node_id=f"{sender}.message", kind="agent", action="send", agent_id=sender, run_id=run_id,
            credential=credential, tenant=tenant, labels=labels, reads=reads,
            input={"sender": sender, "receiver": receiver, "content": content}, handler=_content,
        )  # fmt: skip
        outcome = await self._runtime.run(step)
        if outcome.ok:
            message = Message(sender, receiver, outcome.output, outcome.run_id, outcome.step_id)
            self._inboxes.setdefault(receiver, []).append(message)
            self._tell(
                MeshEvent.MESSAGE_SENT, run_id=outcome.run_id, step_id=outcome.step_id, agent_id=sender,
                receiver=receiver,
            )  # fmt: skip
        return outcome

    def read(self, receiver: str) -> list[Message]:
        """Return what has arrived for an agent, the oldest first, and take it out of the inbox."""
        self._known(receiver)
        return self._inboxes.pop(receiver, [])

    async def answer(self, receiver: str, **options: Any) -> list[AgentResult]:
        """Have an agent run once for each message that has arrived, in the message's run and with its labels.

        What a run raises is raised on, and the messages behind it stay in the inbox.
        """
        agent, results = self._known(receiver), []
        waiting = deque(self.read(receiver))
        try:
            while waiting:
                message = waiting.popleft()
                given = {"run_id": message.run_id, "reads": (message.step_id,), **options}
                results.append(await agent.run(message.content, runtime=self._runtime, **given))
        finally:
            if waiting:
                self._inboxes[receiver] = [*waiting, *self._inboxes.get(receiver, [])]
        return results


def _content(given: Any) -> Any:
    return given["content"]
