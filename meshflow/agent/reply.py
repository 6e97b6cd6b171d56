"""A model's answer as a stream: on its way into the output guardrails, and what they release of it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic_ai.messages import (
    BaseToolCallPart,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
)
from pydantic_ai.models import StreamedResponse

from meshflow.agent.run import AgentRun, RunStopped
from meshflow.agent.view import part_view, part_with
from meshflow.errors import StepDeniedError
from meshflow.record import RuntimeOutcome

if TYPE_CHECKING:
    from meshflow.kernel.session import StepStream


@dataclass(slots=True)
class Source:
    """A provider's stream on its way into the gates, and what they see nothing of: whole parts, and how it ended."""

    parts: deque[Any] = field(default_factory=deque)
    whole: ModelResponse | None = None

    async def read(self, reply: StreamedResponse) -> AsyncIterator[Any]:
        """Yield text as it comes, and the view of each other part once it is whole: half of one cannot be judged."""
        async for event in reply:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                if event.part.content:
                    yield event.part.content
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                yield event.delta.content_delta
            elif _is_whole(event) and not isinstance(event.part, TextPart):
                self.parts.append(event.part)
                yield part_view(event.part)
        self.whole = reply.get()


def _is_whole(event: Any) -> TypeGuard[PartStartEvent | PartEndEvent]:
    """Say whether an event has a part that nothing is added to any more; only those that grow have an end."""
    grows = isinstance(getattr(event, "part", None), (TextPart, ThinkingPart, BaseToolCallPart))
    return isinstance(event, PartEndEvent if grows else PartStartEvent)


@dataclass
class GovernedReply(StreamedResponse):
    """What pydantic-ai reads in the place of the provider's stream."""

    _: KW_ONLY
    stream: StepStream
    source: Source
    run: AgentRun
    name: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        number = 0
        try:
            async for part in self.stream:
                for event in self._events(part, number):
                    yield event
                number += not isinstance(part, str)
        except StepDeniedError as error:
            if isinstance(error.outcome, RuntimeOutcome):
                self.run.ended(error.outcome)
                self.run.stopped = error.outcome
                raise RunStopped(error.outcome) from None
            raise
        if self.stream.outcome is not None:
            self.run.ended(self.stream.outcome)
        if (whole := self.source.whole) is not None:
            self._usage, self.finish_reason = whole.usage, whole.finish_reason
            self.provider_response_id, self.provider_details = whole.provider_response_id, whole.provider_details

    def _events(self, part: Any, number: int) -> Iterator[ModelResponseStreamEvent]:
        if isinstance(part, str):
            yield from self._parts_manager.handle_text_delta(vendor_part_id=f"text-{number}", content=part)
        else:
            released = part_with(self.source.parts.popleft(), part)
            yield self._parts_manager.handle_part(vendor_part_id=f"part-{number}", part=released)

    async def close_stream(self) -> None:
        """Stop reading; what was released so far is recorded."""
        await self.stream.aclose()

    @property
    def model_name(self) -> str:
        """Return the name of the model that was asked."""
        return self.name

    @property
    def provider_name(self) -> None:
        """Return none: the parts are the guardrails', not the provider's."""
        return None

    @property
    def provider_url(self) -> None:
        """Return none."""
        return None

    @property
    def timestamp(self) -> datetime:
        """Return when the stream was opened."""
        return self.at
