"""What a user hands to a runtime: a bundle, and the engine that shall evaluate it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.policy.bundle import Bundle
from meshflow.policy.engine import ENGINES, MAX_INPUT_BYTES, PolicyEngine

if TYPE_CHECKING:
    from meshflow.policy.opa.server import OpaServer


class Policy:
    """A policy bundle and the name of its engine: ``StepRuntime(policy=Policy.from_bundle("policies/desk"))``."""

    __slots__ = ("bundle", "engine_name")

    def __init__(self, bundle: Bundle, *, engine: str = "regorus") -> None:
        if engine not in ENGINES:
            raise ConfigError(f"unknown policy engine {engine!r}; choose one of {', '.join(ENGINES)}")
        self.bundle = bundle
        self.engine_name = engine

    @classmethod
    def from_bundle(cls, path: str | Path, *, data: Mapping[str, Any] | None = None, engine: str = "regorus") -> Policy:
        """Read a bundle's folder or a single .rego file. ``data`` is laid over the bundle's own data document."""
        bundle = Bundle.load(path)
        return cls(bundle.with_data(data) if data is not None else bundle, engine=engine)

    @classmethod
    def from_rego(
        cls, source: str | Mapping[str, str], data: Mapping[str, Any] | None = None, *, engine: str = "regorus"
    ) -> Policy:
        """Take Rego text, or texts by file name."""
        texts = {"policy.rego": source} if isinstance(source, str) else source
        wrong = [name for name in texts if not name.endswith(".rego")]
        if wrong or not texts:
            raise ConfigError(f"policy texts need file names that end in .rego, not {wrong}")
        try:
            bundle = Bundle.from_files({name: text.encode() for name, text in texts.items()})
        except UnicodeEncodeError:
            raise ConfigError("the policy text is not valid Unicode") from None
        return cls(bundle.with_data(data) if data is not None else bundle, engine=engine)

    @property
    def digest(self) -> str:
        """The bundle's digest."""
        return self.bundle.digest

    def engine(
        self, *, max_input_bytes: int = MAX_INPUT_BYTES, server: OpaServer | None = None, base: Path | None = None
    ) -> PolicyEngine:
        """Return a new engine for the bundle; its caller starts and closes it.

        The engine opa needs to know its ``server``, whose files are looked for below ``base``.
        """
        if self.engine_name == "opa":
            from meshflow.policy.opa import OpaEngine

            if server is None:
                raise ConfigError("the engine opa needs to know where its server is", path="plugins.rego.server.url")
            return OpaEngine(self.bundle, server, base=base, max_input_bytes=max_input_bytes)
        if server is not None:
            raise ConfigError(f"the engine {self.engine_name} asks no server", path="plugins.rego.server")
        if self.engine_name == "golib":
            from meshflow.policy.golib import GolibEngine

            return GolibEngine(self.bundle, max_input_bytes=max_input_bytes)
        from meshflow.policy.regorus import RegorusEngine

        return RegorusEngine(self.bundle, max_input_bytes=max_input_bytes)

    def __repr__(self) -> str:
        return f"Policy({self.bundle.name!r}, engine={self.engine_name!r}, digest={self.digest[:12]!r})"
