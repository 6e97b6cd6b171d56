"""Going through a value at any depth, with the findings, the replaced value and the counts as the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshflow.plugin import Finding
from meshflow_presidio.actions import is_token
from meshflow_presidio.objects import fields_of, with_fields
from meshflow_presidio.scanner import Span, TextScanner
from meshflow_presidio.settings import SECRET, STRENGTH, Action

# (entity, value, action) to what takes the value's place
Replace = Callable[[str, str, Action], str]
# entity, and whether the value's path is one where values are left alone, to the action
Choose = Callable[[str, bool], Action]
_MAX_FINDINGS_PER_ENTITY = 200
_CARD_DIGITS = range(12, 20)
_LEAVES = (int, float, bool, type(None))


class WalkError(Exception):
    """The value cannot be scanned whole; ``cause`` is the last part of the denial's code."""

    def __init__(self, cause: str, reason: str) -> None:
        self.cause = cause
        self.reason = reason
        super().__init__(reason)


class Walk:
    """One pass over one value. Values are copied only where something in them changes."""

    def __init__(
        self, scanner: TextScanner, choose: Choose, replace: Replace, *, max_chars: int, max_depth: int, max_nodes: int
    ) -> None:
        self._scanner = scanner
        self._choose = choose
        self._replace = replace
        self._chars_left = max_chars
        self._nodes_left = max_nodes
        self._max_depth = max_depth
        self._path: list[str] = ["$"]
        self._left_alone: frozenset[str] = frozenset()
        self._in_left_alone = False
        self.findings: list[Finding] = []
        self.entities: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.by_entity: dict[str, Counter[str]] = {}
        self.unscanned: Counter[str] = Counter()

    def run(self, value: Any, *, root: str = "$", left_alone: frozenset[str] = frozenset()) -> Any:
        """Return the value with its sensitive data replaced; the same object where there is none."""
        self._path = [root]
        self._left_alone = left_alone
        return self._value(value, (), False)

    def _value(self, value: Any, words: tuple[str, ...], is_secret: bool) -> Any:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise WalkError("too_large", "there are more values than max_nodes")
        if isinstance(value, str):
            return self._text(value, words, is_secret)
        if isinstance(value, _LEAVES):
            return self._number(value) if type(value) is int and value > 10**11 else value
        if isinstance(value, (bytes, bytearray)):
            return self._bytes(value, words, is_secret)
        if isinstance(value, (Mapping, list, tuple, set, frozenset)):
            if len(self._path) > self._max_depth:
                raise WalkError("too_deep", f"values are nested deeper than {self._max_depth}")
            return self._mapping(value) if isinstance(value, Mapping) else self._items(value, words, is_secret)
        fields = fields_of(value)
        if fields is not None:
            return self._object(value, fields)
        self.unscanned[type(value).__name__] += 1
        return value

    def _object(self, value: Any, fields: dict[str, Any]) -> Any:
        if len(self._path) > self._max_depth:
            raise WalkError("too_deep", f"values are nested deeper than {self._max_depth}")
        new = self._mapping(fields)
        return value if new is fields else with_fields(value, new)

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        """Scan what a dict holds, whatever a subclass of it shows; of another mapping, keep what it showed here."""
        changed = not isinstance(value, dict)
        out: dict[Any, Any] = {}
        top = len(self._path) == 1
        for key, item in dict.items(value) if isinstance(value, dict) else value.items():
            new_key: Any = key
            words: tuple[str, ...] = ()
            is_secret = False
            if top:
                self._in_left_alone = False
            if isinstance(key, str):
                new_key = self._text(key, (), False)
                words, is_secret = self._scanner.words_of(key), self._scanner.is_secret_key(key)
                changed = changed or new_key is not key
            elif not isinstance(key, _LEAVES):
                self.unscanned[f"key {type(key).__name__}"] += 1
            step = str(new_key)[:64] if isinstance(new_key, (str, int)) else type(key).__name__
            self._path.append(f".{step}" if step.isidentifier() else f"[{step!r}]")
            if top:
                self._in_left_alone = key in self._left_alone
            new = self._value(item, words, is_secret)
            self._path.pop()
            if new_key is not key:
                new_key = _unused(new_key, out, value)
            changed = changed or new is not item
            out[new_key] = new
        return out if changed else value

    def _items(self, value: Any, words: tuple[str, ...], is_secret: bool) -> Any:
        changed = False
        out = []
        for index, item in enumerate(_members(value)):
            self._path.append(f"[{index}]")
            new = self._value(item, words, is_secret)
            self._path.pop()
            changed = changed or new is not item
            out.append(new)
        if not changed:
            return value
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(out)
        for kind in (list, tuple, frozenset):
            if isinstance(value, kind):
                return kind(out)
        return set(out)

    def _number(self, value: int) -> Any:
        """A card number may come as a number, where no text scan would see it."""
        text = str(value)
        if len(text) not in _CARD_DIGITS:
            return value
        cards = tuple(
            s for s in self._scanner.spans(text) if s.entity == "CREDIT_CARD" and s.end - s.start == len(text)
        )
        new = self._apply(text, cards)
        return value if new is text else new

    def _bytes(self, value: bytes | bytearray, words: tuple[str, ...], is_secret: bool) -> Any:
        self._take(len(value))
        try:
            text = (bytes if isinstance(value, bytes) else bytearray).decode(value, "utf-8")  # type: ignore[arg-type]
        except UnicodeDecodeError:
            self.unscanned["binary"] += 1
            return value
        new = self._text(text, words, is_secret, counted=True)
        return value if new is text else type(value)(new.encode("utf-8"))

    def _take(self, chars: int) -> None:
        self._chars_left -= chars
        if self._chars_left < 0:
            raise WalkError("too_large", "there is more text than max_chars")

    def _text(self, value: str, words: tuple[str, ...], is_secret: bool, *, counted: bool = False) -> str:
        """Scan the characters that a text has, whatever a subclass shows of them."""
        text = value if type(value) is str else str.__str__(value)
        new = self._plain_text(text, words, is_secret, counted)
        return value if new is text else new

    def _plain_text(self, text: str, words: tuple[str, ...], is_secret: bool, counted: bool) -> str:
        if not text:
            return text
        if not counted:
            self._take(len(text))
        spans = self._scanner.spans(text, words)
        if is_secret and not is_token(text):
            spans = (*spans, Span(SECRET, 0, len(text), 0.9))
        return self._apply(text, spans) if spans else text

    def _apply(self, text: str, spans: tuple[Span, ...]) -> str:
        """Replace the spans: those that overlap become one, under the strongest action among them."""
        chosen: list[tuple[Span, Action]] = []
        for span in sorted(spans, key=lambda span: span.start):
            action = self._choose(span.entity, self._in_left_alone)
            self._note(span, action)
            if action is Action.ALLOW:
                continue
            if chosen and span.start < chosen[-1][0].end:
                chosen[-1] = _joined(*chosen[-1], span, action)
            else:
                chosen.append((span, action))
        if not chosen:
            return text
        parts: list[str] = []
        at = 0
        for span, action in chosen:
            parts += (text[at : span.start], self._replace(span.entity, text[span.start : span.end], action))
            at = span.end
        return "".join((*parts, text[at:]))

    def _note(self, span: Span, action: Action) -> None:
        self.entities[span.entity] += 1
        self.actions[action.value] += 1
        self.by_entity.setdefault(span.entity, Counter())[action.value] += 1
        if self.entities[span.entity] <= _MAX_FINDINGS_PER_ENTITY:
            path = "".join(self._path)
            self.findings.append(Finding(span.entity, path, action.value, round(span.score, 3), span.start, span.end))


def _members(value: Any) -> Iterator[Any]:
    """Return what a collection holds, whatever a subclass shows of it."""
    if isinstance(value, list):
        return list.__iter__(value)
    if isinstance(value, tuple):
        return tuple.__iter__(value)
    return set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value)


def _joined(first: Span, action: Action, second: Span, other: Action) -> tuple[Span, Action]:
    lead, strongest = max(((first, action), (second, other)), key=_weight)
    return Span(lead.entity, min(first.start, second.start), max(first.end, second.end), lead.score), strongest


def _weight(chosen: tuple[Span, Action]) -> tuple[int, bool, float, int]:
    span, action = chosen
    return STRENGTH[action], span.entity == SECRET, span.score, span.end - span.start


def _unused(key: str, taken: Mapping[Any, Any], also: Mapping[Any, Any]) -> str:
    """Return the key, numbered where another entry has it already: two masked keys must not become one."""
    number, candidate = 1, key
    while candidate in taken or candidate in also:
        number += 1
        candidate = f"{key}#{number}"
    return candidate
