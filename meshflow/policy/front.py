"""What all engines do before they evaluate: encode the document, be started, know what the bundle defines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from meshflow.errors import ContractError
from meshflow.policy.analysis import Analysis
from meshflow.policy.bundle import Bundle
from meshflow.policy.encode import encode
from meshflow.policy.engine import PolicyAnswer, PolicyFailure


class BundleEngine:
    """Base of the engines: a subclass loads the bundle into ``_analysis`` in ``start``, and answers in ``ask``."""

    distribution: ClassVar[str]

    def __init__(self, bundle: Bundle, max_input_bytes: int) -> None:
        self._bundle = bundle
        self._max_input_bytes = max_input_bytes
        self._analysis: Analysis | None = None
        self.starting = threading.Lock()

    @property
    def version(self) -> str:
        """The version of the distribution; empty where it is not installed."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return ""

    @property
    def bundle_digest(self) -> str:
        """The sha256 of the bundle."""
        return self._bundle.digest

    def has(self, entry_point: str) -> bool:
        """Return whether the bundle defines the rule."""
        if self._analysis is None:
            raise ContractError("start the policy engine before asking what its bundle defines")
        return entry_point in self._analysis.rules

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        """Evaluate a rule. The document is encoded before this first waits, so later changes to it do not count."""
        encoded = encode(document, self._max_input_bytes)
        if isinstance(encoded, PolicyFailure):
            return encoded
        if self._analysis is None:
            await self.start()
        if not self.has(entry_point):
            return PolicyFailure("undefined", f"the bundle has no rule {entry_point}")
        return await self.ask(entry_point, encoded)

    async def start(self) -> None:
        """Load and check the bundle."""
        raise NotImplementedError

    async def ask(self, entry_point: str, encoded: bytes) -> PolicyAnswer | PolicyFailure:
        """Evaluate a rule that the bundle has on an encoded document."""
        raise NotImplementedError
