"""What a runtime runs on: the compiled pipelines and the plugins behind them, swapped whole on reload."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from meshflow.clock import Clock
from meshflow.config.models import ApprovalsConfig, Config
from meshflow.config.problems import located
from meshflow.errors import ConfigError, MeshflowError, PluginError
from meshflow.kernel.ask import describe
from meshflow.kernel.bind import full_call
from meshflow.kernel.compile import Pipeline, compile_pipeline
from meshflow.kernel.demands import check_demands
from meshflow.kernel.notify import Notifier
from meshflow.plugin.base import Host, Plugin
from meshflow.registry.providers import Provider, Shelf
from meshflow.registry.select import StageChoice, choose, choose_for_tenant

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Core:
    """One generation of a runtime. Steps in flight keep the core that they began with."""

    config: Config
    clock: Clock
    base: Pipeline
    tenants: Mapping[str, Pipeline]
    providers: Mapping[str, Provider]
    approvals: ApprovalsConfig
    notifier: Notifier | None
    started: bool = False
    """True once every plugin has started."""
    _steps: dict[object, None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: Future[None] | None = None
    _idle: Future[None] | None = None
    _starting: asyncio.Task[None] | None = None

    @classmethod
    def build(
        cls,
        config: Config,
        host: Host,
        given: Mapping[str, Plugin[Any]],
        previous: Mapping[str, Provider] | None = None,
    ) -> Core:
        """Choose, make and compile everything that the configuration asks for. Nothing is opened yet."""
        shelf = Shelf.open(config, host, given, previous)
        choices = choose(config, shelf)
        unsafe = tuple(choice.stage.name for choice in choices if choice.mode == "disabled" and choice.stage.protected)
        base = _compiled(config, choices, unsafe)
        check_demands(config, choices)
        tenants: dict[str, Pipeline] = {}
        for tenant in config.tenants:
            own = choose_for_tenant(config, shelf, choices, tenant)
            view = config.merged_with(tenant)
            tenants[tenant] = _compiled(view, own, unsafe)
            check_demands(view, own, tenant)
        return cls(config, host.clock, base, tenants, shelf.made(), config.approvals, _notifier(config, host.clock))

    async def start(self, already: Iterable[Any] = ()) -> None:
        """Start every plugin once, whichever loop or thread comes first; raise for each caller if one fails."""
        with self._lock:
            started, first = self._started, self._started is None
            if started is None:
                started = self._started = Future()
        if first:
            # In a task of its own: the first caller may be cancelled, and others wait for the same start.
            self._starting = asyncio.get_running_loop().create_task(self._start(started, already))
        await asyncio.shield(asyncio.wrap_future(started))

    async def _start(self, started: Future[None], already: Iterable[Any]) -> None:
        begun: list[Provider] = []
        try:
            for provider in self._hooked("startup", skip=already):
                await _start_up(provider)
                begun.append(provider)
        except BaseException as error:
            try:
                for problem in await _shut_down(begun):
                    log.error("after a start that failed: %s", problem)
            finally:
                with self._lock:
                    self._started = None
                started.set_exception(error)
            return
        self.started = True
        started.set_result(None)

    async def stop(self, keep: Iterable[Any] = ()) -> None:
        """Shut every plugin down, in reverse order, except those that another core has taken over."""
        if self._started is None:
            return
        self._started, self.started = None, False
        ending = asyncio.get_running_loop().create_task(self._stop(keep))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait({ending})  # there is no second stop that would do the rest
            raise

    async def _stop(self, keep: Iterable[Any]) -> None:
        if self.notifier is not None:
            await self.notifier.drained()
        if problems := await _shut_down(self._hooked("shutdown", skip=keep)):
            raise PluginError(f"shutdown failed: {'; '.join(problems)}")

    async def abandon(self, keep: Iterable[Any]) -> None:
        """Stop a core that was to take over and does not, once a start of it has ended, whichever way."""
        if self._starting is not None:
            await asyncio.wait({self._starting})
        await self.stop(keep)

    def _hooked(self, hook: str, skip: Iterable[Any]) -> list[Provider]:
        """Return the providers that have a hook, in order, without those of the plugins to skip."""
        skipped = {id(plugin) for plugin in skip}
        return [one for one in self.providers.values() if id(one.plugin) not in skipped and hook in one.hooks]

    def enter(self, step: object) -> None:
        """Count a step in. A dict takes in and gives up a key in one go, so neither way needs the lock."""
        self._steps[step] = None

    def leave(self, step: object) -> None:
        """Count a step out."""
        del self._steps[step]
        if self._idle is not None:
            self._tell_if_idle()

    async def drained(self) -> None:
        """Wait until no step runs on this core any more."""
        with self._lock:
            if self._idle is None:
                self._idle = Future()
            idle = self._idle
        self._tell_if_idle()
        await asyncio.shield(asyncio.wrap_future(idle))  # others wait for it too, and the last step sets it

    def _tell_if_idle(self) -> None:
        with self._lock:
            if not self._steps and self._idle is not None:
                self._idle.set_result(None)
                self._idle = None


def _compiled(config: Config, choices: tuple[StageChoice, ...], unsafe: tuple[str, ...]) -> Pipeline:
    """Compile; a plugin that reads its files now knows the setting that is wrong, and the configuration its line."""
    try:
        return compile_pipeline(choices, unsafe)
    except ConfigError as error:
        raise located(error, config.source) from error.__cause__


async def _start_up(provider: Provider) -> None:
    try:
        await _call(provider, "startup")
    except MeshflowError:
        raise
    except Exception as error:
        raise PluginError(f"startup failed: {describe(provider.name, error)}") from error


async def _shut_down(providers: Sequence[Provider]) -> list[str]:
    """Shut plugins down, the last one first, and return what went wrong: one that fails does not keep the others up."""
    problems: list[str] = []
    for provider in reversed(providers):
        if "shutdown" in provider.hooks:
            try:
                await _call(provider, "shutdown")
            except (Exception, asyncio.CancelledError) as error:
                # A plugin that awaits a task it has just cancelled raises this too, and nobody has cancelled us.
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                problems.append(describe(provider.name, error))
    return problems


async def _call(provider: Provider, hook: str) -> None:
    waiting = full_call(provider.hooks[hook], ())()
    if waiting is not None:
        await waiting


def _notifier(config: Config, clock: Clock) -> Notifier | None:
    return Notifier(config.approvals.webhook, clock) if config.approvals.webhook is not None else None
