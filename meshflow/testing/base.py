"""What every conformance class shares: making the plugin under test, calling it, and the contracts of all plugins."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from pydantic import ValidationError

from meshflow.clock import ManualClock
from meshflow.kernel.bind import full_call
from meshflow.plugin.base import Host, Plugin, Settings
from meshflow.profiles.assurances import assurance_problem
from meshflow.registry.hooks import Hook, hooks_of
from meshflow.stages import STAGE_BY_NAME, Stage

T = TypeVar("T")
_LIFECYCLE_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "startup": (),
    "shutdown": (),
    "record_intent": ("context",),
    "settle_step": ("context", "record"),
    "find_approval": ("context",),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A plugin under test and its hooks."""

    plugin: Plugin[Any]
    hooks: Mapping[str, Hook]

    async def call(self, name: str, *args: Any) -> Any:
        """Call a hook as the kernel does, and await it where it must be; None where the plugin has no such hook."""
        hook = self.hooks.get(name)
        if hook is None:
            return None
        stage = next((stage for stage in STAGE_BY_NAME.values() if stage.hook == name), None)
        arguments = stage.arguments if stage is not None else _LIFECYCLE_ARGUMENTS[name]
        answer = full_call(hook, arguments)(*args)
        return await answer if asyncio.iscoroutine(answer) else answer


class PluginConformance:
    """The contracts that hold for every plugin. Subclass one of the classes built on this one.

    Set ``plugin_type``, ``stage`` (a stage's name) and ``settings`` (as ``plugins.<name>`` of meshflow.yaml has them).
    The tests are plain functions that run their own event loop: no pytest plugin for asyncio is needed.
    """

    plugin_type: ClassVar[type[Plugin[Any]]]
    stage: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    timeout_s: ClassVar[float] = 5.0
    """What one call may take: the kernel's default time-out."""
    stall_ms: ClassVar[float] = 50.0
    """What the plugin may hold up the event loop for, on the best of three tries."""

    def host(self, folder: Path) -> Host:
        """Return what the plugin is made with. Override it to hand in a ledger, a policy or another clock."""
        return Host(clock=ManualClock(), base=folder)

    def make(self, folder: Path) -> Plugin[Any]:
        """Return a new instance with ``settings``, its relative paths under ``folder``."""
        return self.plugin_type(self._settings(), self.host(folder))

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Subject]:
        """Give a started plugin; shut it down after."""
        subject = self._subject(folder)
        await subject.call("startup")
        try:
            yield subject
        finally:
            await subject.call("shutdown")

    @property
    def stage_under_test(self) -> Stage:
        """The stage that ``stage`` names."""
        return STAGE_BY_NAME[self.stage]

    def _settings(self) -> Settings:
        return self.plugin_type.settings_type.model_validate(dict(self.settings))

    def _subject(self, folder: Path) -> Subject:
        plugin = self.make(folder)
        return Subject(plugin, hooks_of(self.plugin_type.__name__, plugin))

    def test_hooks_are_well_formed(self, tmp_path: Path) -> None:
        """Hooks are marked, take their arguments by position and without defaults, and one serves the stage."""
        hooks = self._subject(tmp_path).hooks
        assert self.stage_under_test.hook in hooks, f"no hook {self.stage_under_test.hook} for stage {self.stage}"

    def test_unknown_setting_is_refused(self) -> None:
        """A setting that is misspelt is an error, never ignored."""
        with pytest.raises(ValidationError, match=r"no_such_setting_"):
            self.plugin_type.settings_type.model_validate({**self.settings, "no_such_setting_": 1})

    def test_settings_are_frozen(self) -> None:
        """Settings do not change once they are read: the fingerprint covers them."""
        settings = self._settings()
        assert type(settings).model_config.get("frozen"), f"{type(settings).__name__} must be frozen"
        for name in type(settings).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(settings, name, getattr(settings, name))

    def test_settings_are_described(self) -> None:
        """Every setting has a description and a JSON form, for ``meshflow schema`` and for the fingerprint."""
        settings = self._settings()
        missing = [name for name, field in type(settings).model_fields.items() if not field.description]
        assert not missing, f"describe {missing} with Field(description=...)"
        assert type(settings).model_json_schema()
        assert settings.model_dump_json() == self._settings().model_dump_json()

    def test_making_it_opens_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The constructor creates no file, starts no thread, opens no descriptor: plugins are made to be checked."""
        monkeypatch.chdir(tmp_path)
        host = self.host(tmp_path)
        self.plugin_type(self._settings(), host)  # what is imported at first use is imported now
        files, threads, descriptors = _files(tmp_path), set(threading.enumerate()), _descriptors()
        plugin = self.plugin_type(self._settings(), host)
        assert _files(tmp_path) == files
        assert set(threading.enumerate()) <= threads
        assert _descriptors() <= descriptors
        del plugin

    def test_startup_and_shutdown_may_be_called_twice(self, tmp_path: Path) -> None:
        """Each may come again, also in another event loop, and the plugin starts anew after a shutdown."""
        subject = self._subject(tmp_path)

        async def cycle() -> None:
            await subject.call("startup")
            await subject.call("startup")
            await subject.call("shutdown")
            await subject.call("shutdown")

        run(cycle())
        run(cycle())

    def test_shutdown_leaves_no_thread(self, tmp_path: Path) -> None:
        """What ``startup`` opened is closed: a runtime that is reloaded does not leak."""

        async def started_and_stopped() -> None:
            async with self.opened(tmp_path):
                pass

        run(started_and_stopped())
        before = set(threading.enumerate())
        run(started_and_stopped())
        left = {thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()}
        assert not left, f"threads left behind: {left}"

    def test_digest_is_stable(self, tmp_path: Path) -> None:
        """Two instances with equal settings have one digest, so that every process has one fingerprint."""
        digest = self.make(tmp_path).digest()
        assert isinstance(digest, str)
        assert digest == self.make(tmp_path).digest()

    def test_obligations_met_are_names(self) -> None:
        """``meets`` is a frozenset of obligation names."""
        meets = self.plugin_type.meets
        assert isinstance(meets, frozenset)
        assert all(isinstance(name, str) and name for name in meets)

    def test_vouches_for_known_things(self, tmp_path: Path) -> None:
        """``assures`` says names that profile packs can require, with values that they know."""
        problem = assurance_problem(self.make(tmp_path).assures())
        assert not problem, problem

    def test_takes_over_from_its_predecessor(self, tmp_path: Path) -> None:
        """``adopt`` takes an instance of the same class, started or not."""

        async def reload() -> None:
            async with self.opened(tmp_path) as subject:
                self.make(tmp_path).adopt(subject.plugin)
            self.make(tmp_path).adopt(self.make(tmp_path))

        run(reload())


def run(work: Coroutine[Any, Any, T], seconds: float = 120.0) -> T:
    """Run a coroutine in an event loop of its own, bounded in time."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await work

    return asyncio.run(bounded())


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _descriptors() -> set[str]:
    """Return the open descriptors where the system lists them; the one for the listing itself is not among them."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return set()
    return {name for name in names if os.path.exists(f"/dev/fd/{name}")}
