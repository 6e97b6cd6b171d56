"""Presidio recognisers of ours where the stock ones are superlinear, slow, or reach for the network."""

from __future__ import annotations

import re
from typing import Any

import phonenumbers
import tldextract
from phonenumbers import PhoneMetadata
from presidio_analyzer import AnalysisExplanation, Pattern, RecognizerResult
from presidio_analyzer.predefined_recognizers import (
    EmailRecognizer,
    MedicalLicenseRecognizer,
    PhoneRecognizer,
    UrlRecognizer,
)

# Names that the public suffix list leaves out because they are reserved (RFC 2606, RFC 6761, RFC 9476 and usage).
_RESERVED = frozenset(
    {
        "test",
        "example",
        "invalid",
        "localhost",
        "local",
        "internal",
        "intranet",
        "corp",
        "home",
        "lan",
        "private",
        "alt",
    }
)
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W_](?:[\w-]{0,61}[^\W_])?")
_LOCAL_TAIL = re.compile(r"[\w.%+~'-]{1,64}\Z")
URL_PATTERNS = (r"https?://[^\s<>\"'`]{3,2048}", r"\bwww\.[^\s<>\"'`]{3,2048}")
PHONE_CANDIDATE = r"(?<![\w.+])(?:\+ ?)?\(?\d(?:[ .\-/()]{0,2}\d){6,14}(?!\w)"
_PHONE = re.compile(PHONE_CANDIDATE, re.ASCII)
_UUID = re.compile(r"(?<![\w-])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![\w-])", re.IGNORECASE | re.ASCII)
_UUID_LENGTH = 36
_GROUP = re.compile(r"\d+")
_NANP = re.compile(r"(?:\+?1[-. ])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])\d{3}[-. ]\d{4}")
_DATE_OR_ADDRESS = re.compile(
    r"(?:19|20)\d\d([-/.])\d{1,2}\1\d{1,2}(?: \d{1,2})?|\d{1,2}([-/.])\d{1,2}\2(?:19|20)\d\d(?: \d{1,2})?"
    r"|\d{1,3}(?:\.\d{1,3}){3}|(?:19|20)\d\d ?[-/] ?(?:19|20)\d\d|\d{3}([- .])\d\d\3\d{4}"
)


def offline_extractor() -> tldextract.TLDExtract:
    """Return a public-suffix lookup that uses the list in the wheel: no network, no cache on disk."""
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def result(recognizer: Any, start: int, end: int, score: float) -> RecognizerResult:
    """Return a result as Presidio's engine and context enhancer expect it."""
    return RecognizerResult(
        recognizer.supported_entities[0],
        start,
        end,
        score,
        AnalysisExplanation(recognizer=recognizer.name, original_score=score),
        {
            RecognizerResult.RECOGNIZER_NAME_KEY: recognizer.name,
            RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: recognizer.id,
        },
    )


def _in_uuid(text: str, start: int, end: int) -> bool:
    """Return whether a piece of the text lies within a UUID (RFC 9562), where digits and hyphens mean nothing."""
    around = _UUID.finditer(text, max(0, end - _UUID_LENGTH), start + _UUID_LENGTH)
    return any(uuid.start() <= start and end <= uuid.end() for uuid in around)


class LinearEmailRecognizer(EmailRecognizer):
    """E-mail addresses, read outwards from each ``@``: at most 64 characters back and a domain forward."""

    def __init__(self) -> None:
        super().__init__(name="LinearEmailRecognizer")
        self._extract = offline_extractor()

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None, regex_flags: Any = None) -> list[Any]:
        """Return the addresses in the text."""
        found: list[Any] = []
        known: dict[str, bool] = {}
        at = text.find("@")
        while at != -1:
            local = _LOCAL_TAIL.search(text[max(0, at - 64) : at])
            domain = _DOMAIN.match(text, at + 1) if local is not None else None
            if local is not None and domain is not None:
                start = at - len(local.group().lstrip(".'-"))
                if start < at and self._registrable(domain.group(), known):
                    found.append(result(self, start, domain.end(), 1.0))
            at = text.find("@", at + 1)
        return found

    def _registrable(self, domain: str, known: dict[str, bool]) -> bool:
        domain = domain.lower()
        if domain not in known:
            known[domain] = domain.rpartition(".")[2] in _RESERVED or self._extract(domain).fqdn != ""
        return known[domain]


class BoundedUrlRecognizer(UrlRecognizer):
    """URLs that say so (http, https, www.), by patterns of bounded length."""

    def __init__(self) -> None:
        patterns = [Pattern(f"url {i}", pattern, 0.6) for i, pattern in enumerate(URL_PATTERNS)]
        super().__init__(patterns=patterns, name="BoundedUrlRecognizer")

    def validate_result(self, pattern_text: str) -> None:
        """Leave the score alone: the stock check asks tldextract, which asks the network."""
        return


class WholeWordMedicalLicenseRecognizer(MedicalLicenseRecognizer):
    """DEA numbers that stand alone: the stock pattern finds a valid one inside every 30th SHA-256 digest."""

    def __init__(self) -> None:
        (stock,) = MedicalLicenseRecognizer.PATTERNS
        alone = Pattern(stock.name, rf"(?<![A-Za-z0-9])(?:{stock.regex})(?![A-Za-z0-9])", stock.score)
        super().__init__(patterns=[alone], name="WholeWordMedicalLicenseRecognizer")


class OnePassPhoneRecognizer(PhoneRecognizer):
    """Phone numbers: one pass for candidates, and phonenumbers on each candidate alone."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        super().__init__(
            supported_regions=regions,
            context=["phone", "telephone", "tel", "cell", "cellphone", "mobile", "call", "fax", "whatsapp", "sms"],
            name="OnePassPhoneRecognizer",
        )
        # Where a national number is written with a leading 0, one without it is no number of that region.
        known = {region: PhoneMetadata.metadata_for_region(region, None) for region in regions}
        prefixes = {region: metadata.national_prefix for region, metadata in known.items() if metadata is not None}
        unknown = sorted(set(regions) - set(prefixes))
        if unknown:
            raise ValueError(f"unknown phone regions {unknown}")
        self._with_zero = tuple(r for r, prefix in prefixes.items() if prefix == "0")
        self._without = tuple(r for r in regions if r not in self._with_zero)

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[Any]:
        """Return the phone numbers in the text."""
        found: list[Any] = []
        known: dict[str, tuple[int, int, float] | None] = {}
        for match in _PHONE.finditer(text):
            candidate = match.group()
            if candidate not in known:
                known[candidate] = self._read(candidate)
            span = known[candidate]
            if span is not None and not _in_uuid(text, match.start(), match.end()):
                found.append(result(self, match.start() + span[0], match.start() + span[1], span[2]))
        return found

    def _read(self, candidate: str) -> tuple[int, int, float] | None:
        """Return where in the candidate a number stands and how sure we are; bare digits need a context word."""
        groups = [(m.start(), m.end()) for m in _GROUP.finditer(candidate)]
        if sum(end - start == 1 for start, end in groups) > 3 or _DATE_OR_ADDRESS.fullmatch(candidate):
            return None
        first, last = 0, len(groups)
        spans = [(first, last), (first, last - 1), (first, last - 2), (first + 1, last)]
        for begin, stop in spans:
            if stop - begin < 1:
                continue
            start = groups[begin][0]
            if begin == 0:
                start = 0
            elif candidate[start - 1] == "(":
                start -= 1
            number = candidate[start : groups[stop - 1][1]]
            if self._valid(number):
                bare = number.isdigit()
                return start, start + len(number), 0.75 if number[0] == "+" else 0.3 if bare else 0.5
        return None

    def _valid(self, number: str) -> bool:
        digits = sum(map(str.isdigit, number))
        if digits < 7:
            return False
        if _NANP.fullmatch(number) is not None:
            return True
        if number[0] == "+" or number.startswith("00"):
            return self._parses("+" + number[2:] if number[0] == "0" else number, None)
        regions = self._with_zero if number.lstrip("(")[0] == "0" else self._without
        return any(self._parses(number, region) for region in regions)

    @staticmethod
    def _parses(number: str, region: str | None) -> bool:
        try:
            return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
        except phonenumbers.NumberParseException:
            return False
