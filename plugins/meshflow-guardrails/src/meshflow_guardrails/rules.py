"""The operator's own patterns and keywords, by RE2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from meshflow_guardrails.fold import folded
from meshflow_guardrails.patterns import compile_re2, encodable, of_keywords
from meshflow_guardrails.settings import Rule, RuleAction


@dataclass(frozen=True, slots=True)
class Hits:
    """Which rules matched, which of them deny, and how to mask for the others."""

    names: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    masks: tuple[Callable[[str], str], ...] = ()

    def mask(self, text: str) -> str:
        """Return the text with what the masking rules match replaced."""
        for apply in self.masks:
            text = apply(text)
        return text


class RuleSet:
    """The rules, compiled once."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = [(rule, _compiled(rule)) for rule in rules]

    @property
    def any(self) -> bool:
        """True where there is a rule at all."""
        return bool(self._rules)

    def hits(self, text: str, is_output: bool) -> Hits:
        """Return the rules that match the text, or the text with its look-alikes folded."""
        side = "output" if is_output else "input"
        plain = folded(text)
        matched = [
            (rule, pattern)
            for rule, pattern in self._rules
            if rule.where in (side, "both")
            and (_found(rule, pattern, encodable(text)) or (plain is not text and _found(rule, pattern, plain)))
        ]
        return Hits(
            tuple(rule.name for rule, _ in matched),
            tuple(rule.name for rule, _ in matched if rule.action is RuleAction.DENY),
            tuple(_masker(rule, pattern) for rule, pattern in matched if rule.action is RuleAction.MASK),
        )


def _found(rule: Rule, pattern: Any, text: str) -> bool:
    return next(_spans(rule, pattern, text), None) is not None


def _compiled(rule: Rule) -> Any:
    return compile_re2(rule.pattern) if rule.pattern is not None else of_keywords(rule.keywords)


def _spans(rule: Rule, pattern: Any, text: str) -> Iterator[tuple[int, int]]:
    """Yield where the rule matches; a keyword only where no letter stands before it."""
    if rule.pattern is not None:
        yield from (match.span() for match in pattern.finditer(text))
        return
    for match in pattern.finditer(text):
        start, end = match.span(1)
        if start == 0 or not (text[start - 1].isalnum() or text[start - 1] == "_"):
            yield start, end


def _masker(rule: Rule, pattern: Any) -> Callable[[str], str]:
    def mask(text: str) -> str:
        parts: list[str] = []
        at = 0
        for start, end in _spans(rule, pattern, encodable(text)):
            if end > start:
                parts += [text[at:start], rule.replacement]
                at = end
        return "".join([*parts, text[at:]]) if parts else text

    return mask
