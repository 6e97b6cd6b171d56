"""Stage 7: an input that says the magic word is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshflow.plugin import Decision, NoSettings, Plugin, StepContext, hookimpl


class NoXyzzy(Plugin[NoSettings]):
    """Has no opinion on anything but xyzzy."""

    @hookimpl
    async def guard_input(self, context: StepContext) -> Decision | None:
        if any("xyzzy" in text for text in texts(context.input)):
            return Decision.deny("input_guardrails.magic_word", "the input says the magic word")
        return None


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value, at any depth and in linear time, without recursion."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting += [*item.keys(), *item.values()] if isinstance(item, dict) else item
