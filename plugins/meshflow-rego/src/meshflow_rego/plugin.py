"""Ask one policy bundle at stages 5, 6, 11 and 13, each at its own entry point."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.plugin import Decision, Host, Plugin, StepContext, hookimpl
from meshflow.policy import Bundle, Policy, PolicyEngine, PolicyFailure, decision_from, shipped_bundle, step_document
from meshflow.policy.asked import KEY as ASKED
from meshflow.policy.asked import asked_of
from meshflow.policy.data import parse_document
from meshflow.policy.engine import COMPLIANCE, OUTPUT, POLICY, TOOLS, EntryPoint
from meshflow_rego.codes import PREFIX
from meshflow_rego.settings import RegoSettings

if TYPE_CHECKING:
    from meshflow.plugin import ComplianceChecker, OutputGuard, PolicyEvaluator, ToolAuthorizer

STARTER = "authz"


class RegoPlugin(Plugin[RegoSettings]):
    """Evaluates a Rego bundle. An entry point that it lacks abstains, except at stage 5, where loading fails."""

    settings_type = RegoSettings

    def __init__(self, settings: RegoSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._lock = threading.Lock()
        self._engine: PolicyEngine | None = None
        self._own = True
        self._started: PolicyEngine | None = None
        self._evidence: dict[str, str] = {}
        self._data_digest = ""

    def digest(self) -> str:
        """Return the bundle's digest; reads the bundle's files on first use."""
        return self._opened().bundle_digest

    @hookimpl
    async def startup(self) -> None:
        """Load the bundle; ConfigError names file and line of what is wrong with it."""
        await self._start()

    @hookimpl
    async def shutdown(self) -> None:
        """End the engine, unless the caller brought it."""
        engine, self._started = self._started, None
        if engine is not None and self._own:
            await engine.close()

    @hookimpl
    async def evaluate_policy(self, context: StepContext) -> Decision | None:
        """Stage 5, ``data.meshflow.policy.decision``."""
        return await self._decide(context, POLICY)

    @hookimpl
    async def apply_compliance_profile(self, context: StepContext) -> Decision | None:
        """Stage 6, ``data.meshflow.compliance.decision``."""
        return await self._decide(context, COMPLIANCE)

    @hookimpl
    async def authorize_tool(self, context: StepContext) -> Decision | None:
        """Stage 11, ``data.meshflow.tools.decision``."""
        return await self._decide(context, TOOLS)

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
        """Stage 13, ``data.meshflow.output.decision``; of a stream, every part that is about to be released."""
        return await self._decide(context, OUTPUT, output)

    async def _decide(self, context: StepContext, entry: EntryPoint, output: Any = None) -> Decision | None:
        engine = self._started or await self._start()
        if not engine.has(entry.rule):
            return None
        try:
            document = step_document(context, entry, output)
        except ValueError:
            failure = PolicyFailure("unencodable_input", "the step's estimate is no amount of money")
            return decision_from(failure, PREFIX[entry], self._evidence)
        evidence: dict[str, Any] = self._evidence
        if self.settings.record_input:
            evidence = {**evidence, ASKED: asked_of(document, context.started_us)}
        return decision_from(await engine.evaluate(entry.rule, document), PREFIX[entry], evidence)

    async def _start(self) -> PolicyEngine:
        engine = await asyncio.to_thread(self._opened)
        await engine.start()
        if not engine.has(POLICY.rule):
            raise ConfigError(f"the policy bundle lacks {POLICY.rule}, which decides at stage 5", path=_SETTING)
        self._evidence = {"engine": f"{engine.name} {engine.version}", "bundle_digest": engine.bundle_digest}
        if self._data_digest:
            self._evidence["data_digest"] = self._data_digest
        self._started = engine
        return engine

    def _opened(self) -> PolicyEngine:
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def _open(self) -> PolicyEngine:
        given = self.host.policy
        if given is not None and self.settings.bundle is not None:
            # A tenant's own bundle stands beside the runtime's policy, which the base pipeline goes on to enforce.
            if self.host.tenant is None:
                raise ConfigError("a policy was given to the runtime as well; keep one of the two", path=_SETTING)
            given = None
        if isinstance(given, PolicyEngine):
            if self.settings.data is not None:
                raise ConfigError("an engine given to the runtime brings its own data", path="plugins.rego.data")
            self._own = False
            return given
        policy = given if isinstance(given, Policy) else Policy(self._bundle(given), engine=self.settings.engine)
        overlay = self._overlay()
        if overlay is not None:
            policy = Policy(policy.bundle.with_data(overlay), engine=policy.engine_name)
        self._data_digest = policy.bundle.data_digest
        server = self.settings.server
        return policy.engine(
            max_input_bytes=self.settings.max_input_bytes,
            server=server.server() if server is not None else None,
            base=self.host.base,
        )

    def _bundle(self, given: Any) -> Bundle:
        if given is None:
            given = self.settings.bundle
        if given is None:
            return Bundle.load(shipped_bundle(STARTER))
        if not isinstance(given, (str, Path)):
            raise ConfigError(
                f"policy must be a Policy, the path of a bundle or a policy engine, not {type(given).__name__}"
            )
        return Bundle.load(self.host.base / given)

    def _overlay(self) -> dict[str, Any] | None:
        if self.settings.data is None:
            return None
        path = self.host.base / self.settings.data
        try:
            return parse_document(path.read_bytes(), str(path))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), path="plugins.rego.data") from None


_SETTING = "plugins.rego.bundle"

if TYPE_CHECKING:
    _policy: PolicyEvaluator = RegoPlugin(RegoSettings())
    _compliance: ComplianceChecker = RegoPlugin(RegoSettings())
    _tools: ToolAuthorizer = RegoPlugin(RegoSettings())
    _output: OutputGuard = RegoPlugin(RegoSettings())
