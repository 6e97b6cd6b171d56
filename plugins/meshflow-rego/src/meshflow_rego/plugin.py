"""Ask one policy bundle at stages 5, 6, 11 and 13, each at its own entry point."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from meshflow.errors import ConfigError
from meshflow.plugin import Decision, Host, Plugin, StepContext, hookimpl
from meshflow.policy import Policy, PolicyEngine, PolicyFailure, decision_from, step_document
from meshflow.policy.asked import KEY as ASKED
from meshflow.policy.asked import asked_of
from meshflow.policy.engine import COMPLIANCE, OUTPUT, POLICY, TOOLS, EntryPoint
from meshflow_rego.codes import PREFIX
from meshflow_rego.settings import RegoSettings
from meshflow_rego.source import BundleSource

if TYPE_CHECKING:
    from meshflow.plugin import ComplianceChecker, OutputGuard, PolicyEvaluator, ToolAuthorizer


class RegoPlugin(Plugin[RegoSettings]):
    """Evaluates a Rego bundle. An entry point that it lacks abstains, except at stage 5, where loading fails."""

    settings_type: ClassVar[type[RegoSettings]] = RegoSettings

    def __init__(self, settings: RegoSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._lock = threading.Lock()
        self._engine: PolicyEngine | None = None
        self._own = True
        self._started: PolicyEngine | None = None
        self._evidence: dict[str, str] = {}
        self._source: BundleSource | None = None
        self._policy_read: Policy | None = None
        self._replaces = False

    def digest(self) -> str:
        """Return the bundle's digest; reads the bundle's files on first use."""
        return self._opened().bundle_digest

    @property
    def watch_s(self) -> float:
        """How often the bundle's files are looked at."""
        return self.settings.reload.watch_ms / 1_000

    def changed(self) -> str:
        """Return a sign of how the bundle's files differ from those that decide."""
        return self._source.changed() if self._source is not None else ""

    def adopt(self, previous: Plugin[Any]) -> None:
        """Note that another instance is replaced."""
        self._replaces = True

    @hookimpl
    async def startup(self) -> None:
        """Load the bundle; ConfigError names file and line of what is wrong with it.

        A bundle that takes another's place must pass its own tests first, unless the settings say otherwise.
        """
        await self._start()
        source, policy = self._source, self._policy_read
        if self._replaces and self.settings.reload.tests and source is not None and policy is not None:
            await asyncio.to_thread(source.run_tests, policy.bundle)

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
        if self._policy_read is not None:
            self._evidence["data_digest"] = self._policy_read.bundle.data_digest
        self._started = engine
        return engine

    def given_policy(self) -> Any:
        """Return the policy that the runtime was given."""
        return self.host.policy

    def _opened(self) -> PolicyEngine:
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def _open(self) -> PolicyEngine:
        given = self.given_policy()
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
        source = self._source = BundleSource(self.settings, self.host, given)
        policy = source.read()
        self._policy_read = policy
        server = self.settings.server
        return policy.engine(
            max_input_bytes=self.settings.max_input_bytes,
            server=server.server() if server is not None else None,
            base=self.host.base,
        )


_SETTING = "plugins.rego.bundle"

if TYPE_CHECKING:
    _policy: PolicyEvaluator = RegoPlugin(RegoSettings())
    _compliance: ComplianceChecker = RegoPlugin(RegoSettings())
    _tools: ToolAuthorizer = RegoPlugin(RegoSettings())
    _output: OutputGuard = RegoPlugin(RegoSettings())
