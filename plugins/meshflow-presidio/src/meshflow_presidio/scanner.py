"""One text in, the spans of its sensitive data out; remembered by keyed digest, so a text is scanned once."""

from __future__ import annotations

import gc
import re
import secrets
import threading
from collections import OrderedDict
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meshflow.plugin import Clock
from meshflow_presidio.canonical import canonical
from meshflow_presidio.secrets import SecretScanner
from meshflow_presidio.settings import SECRET, PresidioSettings

if TYPE_CHECKING:
    from meshflow_presidio.engine import Analyzer, Deadline

_KEY_WORD = re.compile(r"[A-Za-z][a-z]+|[A-Z]+(?![a-z])")
_NOT_KEY = re.compile(r"[^a-z]")
NEEDS_MODEL = ("LOCATION", "PERSON")


class Span(NamedTuple):
    """A piece of sensitive data in one text; offsets count characters."""

    entity: str
    start: int
    end: int
    score: float


class SpanCache:
    """The spans of texts seen lately. It holds digests under a random key, never a text."""

    def __init__(self, max_entries: int, max_spans: int) -> None:
        self._max_entries = max_entries
        self._max_spans = max_spans
        self._key = secrets.token_bytes(16)
        self._entries: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self._spans = 0
        self._lock = threading.Lock()

    def key(self, text: str, words: tuple[str, ...]) -> bytes:
        """Return the digest that stands for a text and the context words around it."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16)
        if words:
            digest.update(b"\x00" + " ".join(words).encode())
        return digest.digest()

    def get(self, key: bytes) -> tuple[Span, ...] | None:
        """Return the spans remembered, or None."""
        with self._lock:
            spans = self._entries.get(key)
            if spans is not None:
                self._entries.move_to_end(key)
            return spans

    def put(self, key: bytes, spans: tuple[Span, ...]) -> None:
        """Remember spans, and forget the oldest beyond the bounds."""
        if len(spans) > self._max_spans or self._max_entries == 0:
            return
        with self._lock:
            self._spans += len(spans) - len(self._entries.pop(key, ()))
            self._entries[key] = spans
            while len(self._entries) > self._max_entries or self._spans > self._max_spans:
                self._spans -= len(self._entries.popitem(last=False)[1])


class TextScanner:
    """All detectors over one text. ``load`` must have been called; it imports Presidio, which takes a second."""

    def __init__(self, settings: PresidioSettings, clock: Clock, base: Path) -> None:
        self._settings = settings
        self._clock = clock
        self._base = base
        self._analyzer: Analyzer | None = None
        self._deadline: Deadline | None = None
        self._secrets: SecretScanner | None = None
        self._cache = SpanCache(settings.cache_entries, settings.cache_spans)
        self._lock = threading.Lock()
        self._secret_keys = frozenset(_NOT_KEY.sub("", key.lower()) for key in settings.secret_keys)
        self.not_covered: tuple[str, ...] = ()
        self.covered: frozenset[str] = frozenset()

    def load(self) -> None:
        """Build the detectors once, from any thread."""
        with self._lock:
            if self._analyzer is not None:
                return
            from meshflow_presidio.engine import Analyzer, Deadline

            wants_secrets = self._settings.secrets != "none"
            self._secrets = SecretScanner(self._settings.secrets) if wants_secrets else None
            self._deadline = Deadline(self._clock)
            analyzer = Analyzer(self._settings, self._deadline, self._base)
            missing = [entity for entity in NEEDS_MODEL if entity not in analyzer.covered]
            full = self._secrets is not None and self._secrets.covered
            self.not_covered = tuple(missing) if full else (*missing, SECRET)
            self.covered = analyzer.covered | ({SECRET} if self._secrets is not None else frozenset())
            canonical("\u00e9")
            _collect_once()
            self._analyzer = analyzer

    @property
    def loaded(self) -> bool:
        """True when texts can be scanned."""
        return self._analyzer is not None

    def start(self, timeout_ms: int) -> None:
        """Begin to count the time of a scan on this thread."""
        assert self._deadline is not None  # noqa: S101 - load was called
        self._deadline.start(timeout_ms)

    def is_secret_key(self, key: str) -> bool:
        """True where a mapping's key says that its value is a secret."""
        return self._secrets is not None and len(key) <= 64 and _NOT_KEY.sub("", key.lower()) in self._secret_keys

    def words_of(self, key: str) -> tuple[str, ...]:
        """Return the words of a mapping's key that some recogniser counts as context."""
        assert self._analyzer is not None  # noqa: S101 - load was called
        if len(key) > 64:
            return ()
        words = {word.lower() for word in _KEY_WORD.findall(key)} & self._analyzer.context_words
        return tuple(sorted(words)) if words else ()

    def spans(self, text: str, words: tuple[str, ...] = ()) -> tuple[Span, ...]:
        """Return what was found in the text, ordered by where it begins; spans may overlap."""
        key = self._cache.key(text, words)
        known = self._cache.get(key)
        if known is None:
            known = self._scan(text, words)
            self._cache.put(key, known)
        return known

    def _scan(self, text: str, words: tuple[str, ...]) -> tuple[Span, ...]:
        assert self._analyzer is not None  # noqa: S101 - load was called
        assert self._deadline is not None  # noqa: S101 - load was called
        self._deadline.left_s()
        plain, offsets = canonical(text)
        found: list[Span] = []
        possible = self._analyzer.possible(plain)
        if possible:
            results = self._analyzer.analyze(plain, possible, words)
            found += [Span(r.entity_type, r.start, r.end, float(r.score)) for r in results]
        if self._secrets is not None:
            threshold = self._settings.threshold
            found += [
                Span(SECRET, s, e, score) for s, e, score in self._secrets.scan(plain) if score >= threshold and e > s
            ]
        if offsets is not None:
            found = [Span(f.entity, offsets[f.start], offsets[f.end - 1] + 1, f.score) for f in found]
        found.sort(key=lambda span: (span.start, span.end))
        return tuple(found)


@cache
def _collect_once() -> None:
    """Collect what loading the libraries and reading their expressions for the first time has left.

    Those are tens of thousands of objects. If not now, the collector looks through all there is in the midst of one of
    the first steps, and holds every event loop up for 50 ms and more.
    """
    gc.collect()
