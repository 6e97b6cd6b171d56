"""Let an output out through stage 13: whole, or as a stream of which only what has been looked at is released."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from meshflow.kernel.ask import describe
from meshflow.kernel.gate import Passage
from meshflow.step import StreamState

HOLD_BACK = 512
"""Characters of a text stream that are held back, so that what straddles two chunks is seen whole."""


class Release:
    """The release of one stream: feeds stage 13, keeps what was released, and knows how it ended."""

    __slots__ = ("_apart", "_passage", "_pending", "_released_chars", "_tail", "failure", "released", "whole")

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._pending = ""
        self._tail = ""
        self._apart = 0  # how much of the tail what follows has been looked at with; a part that is no text cuts it off
        self.released: list[Any] = []
        self._released_chars = 0
        self.failure: tuple[str, str] | None = None
        self.whole: Any = None  # all that the stream gave, once it has ended

    @property
    def prefix(self) -> Any:
        """All that has been released, joined where it is text."""
        if not self.released:
            return None
        return _joined(self.released)

    async def parts(self, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield what may be released. Stops at a denial, an escalation, or a failure of the stream itself.

        A text window is looked at when twice the hold-back is waiting, so that each character is scanned about twice
        whatever the size of the chunks.
        """
        chunks = aiter(stream)
        try:
            async for part in self._looked_at(chunks):
                yield part
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    async def _looked_at(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        while not self._stopped:
            chunk = await self._next(chunks)
            if chunk is _END or self.failure is not None:
                break
            if isinstance(chunk, str):
                self._pending += chunk
                if len(self._pending) >= 2 * HOLD_BACK:
                    async for part in self._release(keep=HOLD_BACK):
                        yield part
            else:
                async for part in self._release(keep=0):
                    yield part
                async for part in self._release_item(chunk):
                    yield part
        if self.failure is None and not self._stopped:
            async for part in self._finish():
                yield part

    @property
    def _stopped(self) -> bool:
        return self._passage.denial is not None or bool(self._passage.escalations)

    async def _next(self, chunks: AsyncIterator[Any]) -> Any:
        try:
            return await anext(chunks)
        except StopAsyncIteration:
            return _END
        except Exception as error:
            code = getattr(error, "code", "execution.handler_error")
            self.failure = (code if isinstance(code, str) else "execution.handler_error", describe("the stream", error))
            return _END

    async def _release(self, keep: int) -> AsyncIterator[Any]:
        if not self._pending:
            return
        await self._guard(self._pending, final=False)
        if self._stopped:
            return
        text = self._passage.output
        if not isinstance(text, str):
            self._passage.deny("output_guardrails", "invalid_decision", "the replacement of a text must be a text")
            return
        await self._look_across(text)
        if self._stopped:
            return
        cut = max(0, len(text) - keep)
        self._pending = text[cut:]
        if cut:
            self._out(text[:cut])
            yield text[:cut]

    async def _release_item(self, item: Any) -> AsyncIterator[Any]:
        if self._stopped:
            return
        await self._guard(item, final=False)
        if not self._stopped:
            self._apart = len(self._tail)
            self.released.append(self._passage.output)
            yield self._passage.output

    async def _finish(self) -> AsyncIterator[Any]:
        """Look at the whole before its last part goes out."""
        await self._guard(self._pending, final=False)
        last = self._passage.output if self._pending else ""
        self.whole = _joined([*self.released, last] if last else self.released)
        if self._stopped:
            return
        if isinstance(last, str):
            await self._look_across(last)
        if self._stopped:
            return
        whole = [*self.released, last] if last else self.released
        await self._guard(_joined(whole), final=True)
        if not self._stopped and last:
            self._out(last)
            yield last

    def _out(self, text: Any) -> None:
        """Count a last part, or a piece of text, as released."""
        self.released.append(text)
        if isinstance(text, str):
            self._released_chars += len(text)
            self._apart = max(0, self._apart - len(text))
            self._tail = (self._tail + text)[-HOLD_BACK:]

    async def _look_across(self, text: str) -> None:
        """Look at text together with what went out before the part between them: a secret may lie on both sides.

        What is out cannot be changed any more; a provider that would change it denies, and the rest stays in.
        """
        if self._apart and text:
            both = self._tail + text
            state = self._passage.state
            state.stream = StreamState("", False, max(0, self._released_chars - len(self._tail)))
            await self._passage.pass_output(both)
            if not self._stopped and self._passage.output != both:
                self._passage.deny("output_guardrails", "too_late", "a provider would change what has been released")

    async def _guard(self, output: Any, *, final: bool) -> None:
        self._passage.state.stream = StreamState(self._tail, final, self._released_chars)
        await self._passage.pass_output(output)


def _joined(parts: list[Any]) -> Any:
    return "".join(parts) if all(isinstance(part, str) for part in parts) else list(parts)


_END = object()
