"""Presidio's analyzer, built without a model, without the network, and so that a time-out is never a missed finding."""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import presidio_analyzer.predefined_recognizers as predefined
import regex  # type: ignore[import-untyped]
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, PatternRecognizer, RecognizerRegistry, RecognizerResult
from presidio_analyzer.context_aware_enhancers import ContextAwareEnhancer
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, NoOpNlpEngine, SpacyNlpEngine

from meshflow.plugin import Clock, ConfigError
from meshflow_presidio.gates import compile_re2, gate_of
from meshflow_presidio.recognizers import (
    PHONE_CANDIDATE,
    BoundedUrlRecognizer,
    LinearEmailRecognizer,
    OnePassPhoneRecognizer,
    WholeWordMedicalLicenseRecognizer,
    result,
)
from meshflow_presidio.settings import SECRET, PresidioSettings

_TOKEN = re.compile(r"\w+", re.ASCII)
_FLAGS = regex.DOTALL | regex.MULTILINE | regex.IGNORECASE
NER_ENTITIES = ("PERSON", "LOCATION")
_REPLACED = {"EmailRecognizer", "IbanRecognizer", "MedicalLicenseRecognizer", "PhoneRecognizer", "UrlRecognizer"}


class ScanTimeoutError(Exception):
    """The scan ran out of time. No subclass of TimeoutError: Presidio catches those and goes on without the pattern."""


class Deadline:
    """When the scan of this thread must be done; each thread has its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._local = threading.local()

    def start(self, timeout_ms: int) -> None:
        """Begin to count."""
        self._local.ends_ns = self._clock.monotonic_ns() + timeout_ms * 1_000_000

    def left_s(self) -> float:
        """Return the seconds left; raise ScanTimeoutError where there are none."""
        left: int = self._local.ends_ns - self._clock.monotonic_ns()
        if left <= 0:
            raise ScanTimeoutError
        return left / 1e9


class _GuardedPattern:
    """Stands where Presidio keeps a compiled pattern, and lets no time-out pass for an empty answer."""

    __slots__ = ("_compiled", "_deadline")

    def __init__(self, compiled: Any, deadline: Deadline) -> None:
        self._compiled = compiled
        self._deadline = deadline

    def finditer(self, text: str, timeout: float | None = None) -> Iterator[Any]:
        try:
            yield from self._compiled.finditer(text, timeout=self._deadline.left_s())
        except TimeoutError:
            raise ScanTimeoutError from None


class TokenNlpEngine(NoOpNlpEngine):
    """Tokens by a regex and lower-cased lemmas, so that context words count without a model."""

    def __init__(self) -> None:
        super().__init__(models=[{"lang_code": "en", "model_name": "tokens"}])
        self.load()

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        """Return the text's words, in lower case, and where they begin."""
        artifacts = super().process_text(text, language)
        starts: list[int] = []
        lemmas: list[str] = []
        # A loop in Python, which gives way to the event loop's thread; list() would hold the interpreter to the end.
        for word in _TOKEN.finditer(text):
            starts.append(word.start())
            lemmas.append(word.group().lower())
        artifacts.tokens_indices, artifacts.lemmas = starts, lemmas
        return artifacts


class NearbyContextEnhancer(ContextAwareEnhancer):
    """Raise a score where one of the few words before a finding, taken whole, is one its recogniser knows.

    The stock enhancer searches all tokens from the first for each finding (quadratic) and matches parts of words.
    """

    def __init__(self) -> None:
        super().__init__(
            context_similarity_factor=0.35,
            min_score_with_context_similarity=0.4,
            context_prefix_count=5,
            context_suffix_count=0,
        )
        self._words: dict[str, frozenset[str]] = {}

    def enhance_using_context(
        self, text: str, raw_results: Any, nlp_artifacts: Any, recognizers: Any, context: Any = None
    ) -> list[Any]:
        """Return the results with scores raised; results of ours, so they are changed in place."""
        by_id = {recognizer.id: recognizer for recognizer in recognizers}
        outside = set(context or ())
        for found in raw_results:
            recognizer = by_id.get(found.recognition_metadata[RecognizerResult.RECOGNIZER_IDENTIFIER_KEY])
            if recognizer is None or not recognizer.context:
                continue
            known = self._known(recognizer)
            index = bisect_right(nlp_artifacts.tokens_indices, found.start)
            before = nlp_artifacts.lemmas[max(0, index - 1 - self.context_prefix_count) : index]
            if not known.isdisjoint(before) or not known.isdisjoint(outside):
                raised = max(found.score + self.context_similarity_factor, self.min_score_with_context_similarity)
                found.score = min(raised, self.MAX_SCORE)
        return list(raw_results)

    def _known(self, recognizer: Any) -> frozenset[str]:
        known = self._words.get(recognizer.id)
        if known is None:
            known = self._words[recognizer.id] = frozenset(context_words(recognizer))
        return known


def context_words(recognizer: Any) -> set[str]:
    """Return the single words of a recogniser's context; of a phrase, only the whole is meant, so it is left out."""
    return {w.strip().rstrip("#:").lower() for w in recognizer.context or () if " " not in w.strip()} - {"", "us", "id"}


class GuardedIbanRecognizer(predefined.IbanRecognizer):
    """The stock IBAN recogniser with its checks, over a pattern whose time-out is an error."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(name="GuardedIbanRecognizer")
        stock: Any = self
        flags = stock.global_regex_flags
        self._guarded = [_GuardedPattern(regex.compile(p.regex, flags=flags), deadline) for p in stock.patterns]

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None, regex_flags: Any = None) -> list[Any]:
        """Return the IBANs; of each match the longest beginning that passes the check digits."""
        found: list[Any] = []
        for pattern in self._guarded:
            for match in pattern.finditer(text):
                ends = [match.end(group) for group in range(match.re.groups, 0, -1) if match.end(group) > match.start()]
                for end in dict.fromkeys(ends):
                    valid = self.validate_result(text[match.start() : end])
                    if valid is not False:
                        found.append(result(self, match.start(), end, 1.0 if valid else 0.5))
                        break
        return found


class Re2Recognizer(EntityRecognizer):
    """An entity of the operator's own, found by RE2."""

    def __init__(self, entity: str, pattern: str) -> None:
        self.pattern = pattern
        self._compiled = compile_re2(pattern, ignore_case=False)
        super().__init__(supported_entities=[entity], name=f"pattern {entity}")

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[Any]:
        """Return each match that is not empty."""
        return [result(self, m.start(), m.end(), 1.0) for m in self._compiled.finditer(text) if m.end() > m.start()]


def _stock() -> list[Any]:
    """Return one instance of each of Presidio's pattern recognisers, but for those replaced here."""
    classes = {
        value
        for name, value in vars(predefined).items()
        if isinstance(value, type) and issubclass(value, PatternRecognizer) and name not in _REPLACED
    }
    return [cast("Any", cls)(supported_language="en") for cls in sorted(classes, key=lambda cls: cls.__name__)]


def _spacy_engine(model: str, base: Path) -> Any:
    """Load a spaCy model that is there; the stock engine would download one that is not."""
    spacy_util = import_module("spacy.util")
    folder = base / model
    if not spacy_util.is_package(model) and not folder.is_dir():
        raise ConfigError(
            f"spaCy model {model!r} is not installed; install it or leave the setting out",
            path="plugins.presidio.model",
        )
    name = model if spacy_util.is_package(model) else str(folder)
    kept = NerModelConfiguration(labels_to_ignore=["CARDINAL", "ORDINAL", "QUANTITY", "PERCENT", "MONEY"])
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": name}], ner_model_configuration=kept)
    try:
        engine.load()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"spaCy cannot load {model!r}: {error}", path="plugins.presidio.model") from error
    return engine


class Analyzer:
    """Presidio over the recognisers that the settings name, with a gate in front of each."""

    def __init__(self, settings: PresidioSettings, deadline: Deadline, base: Path) -> None:
        self._deadline = deadline
        self._threshold = settings.threshold
        nlp = TokenNlpEngine() if settings.model is None else _spacy_engine(settings.model, base)
        self._by_model = self._model_entities(settings, nlp)
        chosen = self._choose(settings)
        recognizers = list(chosen)
        if self._by_model:
            recognizers.append(
                predefined.SpacyRecognizer(supported_entities=sorted(self._by_model), supported_language="en")
            )
        self._engine = AnalyzerEngine(
            registry=RecognizerRegistry(recognizers=recognizers, supported_languages=["en"]),
            nlp_engine=nlp,
            supported_languages=["en"],
            context_aware_enhancer=NearbyContextEnhancer(),
        )
        self.context_words = frozenset().union(*(context_words(recognizer) for recognizer in chosen))
        self.covered = frozenset(entity for r in recognizers for entity in r.supported_entities)
        self._build_gates(chosen)

    @staticmethod
    def _model_entities(settings: PresidioSettings, nlp: Any) -> frozenset[str]:
        if settings.model is None:
            return frozenset()
        return frozenset(nlp.get_supported_entities()) & ({*NER_ENTITIES} | set(settings.entities))

    def _choose(self, settings: PresidioSettings) -> list[Any]:
        own = [Re2Recognizer(entity, pattern) for entity, pattern in settings.patterns.items()]
        try:
            phones = OnePassPhoneRecognizer(settings.phone_regions)
        except ValueError as error:
            raise ConfigError(str(error), path="plugins.presidio.phone_regions") from None
        linear = [LinearEmailRecognizer(), BoundedUrlRecognizer(), phones, GuardedIbanRecognizer(self._deadline)]
        ours = [*linear, WholeWordMedicalLicenseRecognizer()]
        everything = [*own, *ours, *_stock()]
        named = set(settings.actions()) - {SECRET}
        known = {entity for recognizer in everything for entity in recognizer.supported_entities} | self._by_model
        if not named <= known:
            raise ConfigError(
                f"nothing finds {sorted(named - known)}; Presidio without a model knows {sorted(known)}",
                path="plugins.presidio.entities",
            )
        codes = {recognizer.country_code() for recognizer in everything} - {None}
        if not set(settings.countries) <= codes:
            raise ConfigError(
                f"unknown countries {sorted(set(settings.countries) - codes)}; choose from {sorted(codes)}",
                path="plugins.presidio.countries",
            )
        chosen = [
            recognizer
            for recognizer in everything
            if not named.isdisjoint(recognizer.supported_entities) or recognizer.country_code() in settings.countries
        ]
        for recognizer in chosen:
            self._guard(recognizer)
        return chosen

    def _guard(self, recognizer: Any) -> None:
        """Compile the recogniser's patterns behind the deadline, with the flags that Presidio will ask for.

        Presidio keeps patterns on the class; copies keep one plugin's deadline out of another's scan.
        """
        if not hasattr(recognizer, "patterns"):
            return
        recognizer.patterns = [copy(pattern) for pattern in recognizer.patterns]
        for pattern in recognizer.patterns:
            flags = recognizer.global_regex_flags
            pattern.compiled_regex = _GuardedPattern(regex.compile(pattern.regex, flags=flags), self._deadline)
            pattern.compiled_with_flags = flags

    def _build_gates(self, chosen: list[Any]) -> None:
        gates: dict[str, str] = {}
        always: set[str] = set(self._by_model)
        for recognizer in chosen:
            entity = recognizer.supported_entities[0]
            gate = self._gate(recognizer)
            if gate is None:
                always.add(entity)
            else:
                gates[entity] = f"{gates[entity]}|{gate}" if entity in gates else gate
        self._always = frozenset(always)
        self._gates = {e: compile_re2(gate) for e, gate in gates.items() if e not in always}
        together = "|".join(f"(?:{gates[e]})" for e in self._gates)
        self._any_gate = compile_re2(together) if together else None

    @staticmethod
    def _gate(recognizer: Any) -> str | None:
        if isinstance(recognizer, LinearEmailRecognizer):
            return "@"
        if isinstance(recognizer, OnePassPhoneRecognizer):
            return gate_of([PHONE_CANDIDATE])
        if isinstance(recognizer, Re2Recognizer):
            return f"(?-i:{recognizer.pattern})"
        return gate_of([pattern.regex for pattern in recognizer.patterns])

    def possible(self, text: str) -> list[str]:
        """Return the entities whose recognisers could match; linear, and never too few."""
        if self._any_gate is None or self._any_gate.search(text) is None:
            return list(self._always)
        data = text.encode()  # once for all gates
        return [*self._always, *(entity for entity, gate in self._gates.items() if gate.search(data) is not None)]

    def analyze(self, text: str, entities: list[str], words: tuple[str, ...]) -> list[Any]:
        """Run the recognisers of these entities; raise ScanTimeoutError where time runs out."""
        found: list[Any] = self._engine.analyze(
            text, "en", entities=entities, context=list(words), score_threshold=self._threshold,
            return_decision_process=True,
        )  # fmt: skip
        self._deadline.left_s()
        return found
