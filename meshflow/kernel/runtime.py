"""StepRuntime: the governed execution of steps."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from meshflow.clock import Clock, SystemClock
from meshflow.config.load import config_from_mapping, load_config
from meshflow.config.models import Config
from meshflow.errors import ConfigError
from meshflow.facts import Principal, TaintLabels
from meshflow.ids import new_id
from meshflow.kernel import followup
from meshflow.kernel.core import Core
from meshflow.kernel.explain import Explanation, explain
from meshflow.kernel.flow import Flow
from meshflow.kernel.session import Session, StepStream
from meshflow.kernel.watch import ReloadEvent, Watcher
from meshflow.ledger.replay import ReplayLedger
from meshflow.loop_thread import LoopThread
from meshflow.plugin.base import Host, Plugin
from meshflow.record import RuntimeOutcome
from meshflow.registry.select import StageChoice
from meshflow.step import NodeInput, StepContext, StepState
from meshflow.turns import turn

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
log = logging.getLogger(__name__)
_YAML = (".yaml", ".yml")


class StepRuntime:
    """The 15-step governed execution kernel.

    ``ledger`` is a ReplayLedger (or None for the one that configuration names); ``policy`` a Policy, the path of a
    bundle or of a meshflow.yaml, or an engine; ``config`` a Config, a path or a mapping; ``plugins`` instances by name,
    which take over the stages whose hooks they implement (and join in where every provider is asked).

    Making a runtime checks everything that can be checked: it raises ConfigError or PluginError rather than deny later.
    One runtime serves any number of tasks, event loops and threads. Close it with ``aclose`` or ``async with``.
    """

    def __init__(
        self,
        ledger: Any = None,
        policy: Any = None,
        *,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        plugins: Mapping[str, Plugin[Any]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if config is None and isinstance(policy, (str, Path)) and Path(policy).suffix in _YAML:
            config, policy = policy, None
        self._source = config
        self._given = dict(plugins or {})
        self._checks: list[Callable[[tuple[StageChoice, ...]], None]] = []
        self._clock = clock or SystemClock()
        self._ledger, self._policy = ledger, policy
        self._core = self._build(_load(config), None)
        self._loop_thread = LoopThread()
        self._reloading = threading.Lock()
        self._retiring: set[Future[None]] = set()
        self._watcher = Watcher(self, self._reloaded)
        self.on_reload: list[Callable[[ReloadEvent], None]] = []
        """Called, on a thread of the runtime's own, when it reloaded itself or refused to."""

    @property
    def fingerprint(self) -> str:
        """The digest of the base pipeline: plugins, versions, modes, settings and policy."""
        return self._core.base.fingerprint

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._core.config

    @property
    def ledger(self) -> ReplayLedger | None:
        """The ledger that the enforced audit provider writes to; None where it keeps none that can be read here."""
        for choice in self._core.base.choices:
            for slot in choice.slots if choice.stage.name == "audit_ledger" else ():
                found = getattr(slot.provider.plugin, "ledger", None)
                if slot.enforced and isinstance(found, ReplayLedger):
                    return found
        return None

    def stages(self, tenant: str | None = None) -> tuple[StageChoice, ...]:
        """Return what serves each stage, for a tenant or the base."""
        core = self._core
        return (core.tenants.get(tenant, core.base) if tenant is not None else core.base).choices

    def plugin(self, name: str) -> Plugin[Any]:
        """Return a plugin in use by name; raise KeyError for one that is not."""
        return self._core.providers[name].plugin

    async def run(self, node_input: NodeInput) -> RuntimeOutcome:
        """Take a step through all fifteen stages and return how it ended.

        Never raises for a step that is denied, paused or fails: the outcome says so. A cancelled caller gets its
        cancellation after the step is recorded.
        """
        core = self._core
        if not core.started:
            await self._begin(core)
        state = self._state(core, node_input)
        core.enter(state)
        try:
            return await Flow(core, state).run()
        finally:
            core.leave(state)

    def run_sync(self, node_input: NodeInput) -> RuntimeOutcome:
        """Run a step for a blocking caller, on the runtime's own loop; works where a loop already runs."""
        return self._blocking(self.run(node_input))

    def run_blocking(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that takes steps for a blocking caller, on the runtime's own loop."""
        return self._blocking(work)

    def stream(self, node_input: NodeInput) -> StepStream:
        """Run a step whose handler streams; iterate to get what the output guardrails release."""
        return StepStream(partial(self._flowing, node_input))

    def _flowing(self, node_input: NodeInput) -> tuple[Flow, AsyncIterator[Any], Callable[[], None]]:
        """Begin a streaming step on the core of now; return its flow, its parts, and what to call at its end."""
        core = self._core
        state = self._state(core, node_input)
        flow = Flow(core, state)
        core.enter(state)
        return flow, flow.chunks(partial(self._begin, core)), partial(core.leave, state)

    async def explain(self, node_input: NodeInput) -> Explanation:
        """Return what each gate would say of a step, past denials, without executing or counting it."""
        core = self._core
        if not core.started:
            await self._begin(core)
        return await explain(core, self._state(core, node_input))

    async def tenant_of(self, node_input: NodeInput) -> str | None:
        """Return the tenant that stages 1 and 2 give a step, without counting it; None where they deny it."""
        entry = await self._entry_of(node_input)
        return entry.tenant_id if entry is not None else None

    async def principal_of(self, node_input: NodeInput) -> Principal | None:
        """Return the principal that stage 1 gives a step, without counting it; None where stage 1 or 2 denies it."""
        entry = await self._entry_of(node_input)
        return entry.principal if entry is not None else None

    async def _entry_of(self, node_input: NodeInput) -> StepContext | None:
        core = self._core
        if not core.started:
            await self._begin(core)
        return await followup.entry_of(core, self._state(core, node_input))

    def labels_of(self, outcome: RuntimeOutcome) -> TaintLabels | None:
        """Return the labels of what a step put out, for the steps that will read it."""
        return followup.labels_of(self._core, outcome)

    async def may_have_run(self, run_id: str, step_id: str, *, after: int = 0) -> bool:
        """Return whether an attempt at a step behind number ``after`` completed, or began without a recorded end."""
        return await followup.may_have_run(self._core, run_id, step_id, after)

    async def redacted(self, words: Mapping[str, Any], tenant: str | None = None) -> Mapping[str, Any] | None:
        """Return a person's words as a record of the tenant may keep them; None where stage 8 could not scan them."""
        core = self._core
        if not core.started:
            await self._begin(core)
        return await followup.redacted(core, self._state(core, NodeInput(node_id="approval", input={})), tenant, words)

    async def next_attempt(self, run_id: str, step_id: str) -> int:
        """Return the number for the next try of a step, by what is on record."""
        return await followup.next_attempt(self._core, run_id, step_id)

    def session(self, **shared: Any) -> Session:
        """Return a session whose steps share the fields given, and a run."""
        return Session(self, shared)

    @overload
    def govern(self, function: F, /, **options: Any) -> F: ...
    @overload
    def govern(self, function: None = None, /, **options: Any) -> Callable[[F], F]: ...
    def govern(self, function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Wrap a callable so that each call is a governed step; also a decorator. Options are fields of NodeInput.

        All calls of one wrapped callable belong to one run, unless ``run_id`` says which; use ``session().govern`` to
        put several callables into one run.
        """
        shared = {name: options.pop(name) for name in ("run_id",) if name in options}
        return self.session(**shared).govern(function, **options)

    def attach(self, name: str, plugin: Plugin[Any]) -> None:
        """Have a plugin instance join in, as if it had been handed in at first; before the first step only.

        It takes part in every later reload too.
        """
        if self._core.started:
            raise ConfigError(f"{name} cannot join a runtime that has started; attach it before the first step")
        if self._given.get(name, plugin) is not plugin:
            raise ConfigError(f"the runtime has a plugin {name!r} already")
        self._given[name] = plugin
        self._core = self._build(_load(self._source), None)

    def insist(self, check: Callable[[tuple[StageChoice, ...]], None]) -> None:
        """Have ``check`` look at what serves each stage, now and before each reload; it raises to refuse."""
        check(self._core.base.choices)
        self._checks.append(check)

    async def reload(self, config: Config | Mapping[str, Any] | str | Path | None = None) -> str:
        """Compile anew and swap; return the new fingerprint. On any error the running pipeline stays.

        Steps in flight end on the pipeline that they began with. Plugins whose settings did not change stay as they
        are; those that are replaced hand their state to their successor and are shut down when the last step has left.
        """
        source = config if config is not None else self._source
        # One at a time, whichever loops and threads they come from: each begins with what the one before has left.
        async with turn(self._reloading):
            old = self._core
            new = self._build(_load(source), old.providers)
            for check in self._checks:
                check(new.base.choices)
            if old.started:
                await self._start_beside(old, new)
            self._core, self._source = new, source
        self._leave_to_end(_retire(old, new))
        return new.base.fingerprint

    async def _start_beside(self, old: Core, new: Core) -> None:
        """Start what the new core does not share with the old one; cut off, have what did start shut down again."""
        shared = [one.plugin for one in old.providers.values()]
        try:
            await new.start(already=shared)
        except asyncio.CancelledError:
            self._leave_to_end(new.abandon(keep=shared))
            raise

    def _leave_to_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Have work done that ``aclose`` waits for."""
        ending = asyncio.run_coroutine_threadsafe(work, asyncio.get_running_loop())
        self._retiring.add(ending)
        ending.add_done_callback(self._has_ended)

    def _has_ended(self, ending: Future[None]) -> None:
        self._retiring.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            log.error("what a reload replaced was not shut down: %s", error)

    async def start(self) -> None:
        """Start every plugin now rather than at the first step."""
        await self._begin(self._core)

    async def _begin(self, core: Core) -> None:
        await core.start()
        self._watcher.begin()

    def watched(self) -> Mapping[str, Plugin[Any]]:
        """Return the plugins in use, by name."""
        return {name: provider.plugin for name, provider in self._core.providers.items()}

    def reload_blocking(self) -> str:
        """Do what ``reload`` does for a blocking caller, on the runtime's own loop."""
        return self._blocking(self.reload())

    def _reloaded(self, event: ReloadEvent) -> None:
        for tell in self.on_reload:
            tell(event)

    async def aclose(self) -> None:
        """Wait for the steps in flight, then shut every plugin down."""
        await asyncio.to_thread(self._watcher.stop)
        try:
            await self._close_cores()
        except Exception:  # not where the caller is cut off: a step may still run on the loop
            await asyncio.to_thread(self._loop_thread.stop)
            raise
        await asyncio.to_thread(self._loop_thread.stop)

    def close(self) -> None:
        """Do the same for a blocking caller."""
        self._watcher.stop()
        try:
            self._blocking(self._close_cores())
        except Exception:
            self._loop_thread.stop()
            raise
        self._loop_thread.stop()

    async def __aenter__(self) -> StepRuntime:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _close_cores(self) -> None:
        # What an old core could not shut down has been logged, and keeps nobody from stopping this one. Shielded:
        # a caller that waits no longer would have the old cores stay open.
        await asyncio.shield(asyncio.gather(*map(asyncio.wrap_future, tuple(self._retiring)), return_exceptions=True))
        await self._core.drained()
        await self._core.stop()

    def _blocking(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop_thread.run(work)

    def _build(self, config: Config, previous: Any) -> Core:
        host = Host(clock=self._clock, base=config.base, ledger=self._ledger, policy=self._policy)
        return Core.build(config, host, self._given, previous)

    def _state(self, core: Core, step: NodeInput) -> StepState:
        return StepState(
            step,
            step.run_id or new_id("run"),
            step.step_id or new_id("step"),
            core.clock,
            core.clock.now_us(),
            core.base.fingerprint,
        )


def _load(source: Config | Mapping[str, Any] | str | Path | None) -> Config:
    if source is None:
        return Config.empty()
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return config_from_mapping(source)
    return load_config(source)


async def _retire(old: Core, new: Core) -> None:
    await old.drained()
    await old.stop(keep=[one.plugin for one in new.providers.values()])
