"""Reload a runtime when the files behind its plugins change, or say why not and go on as before."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from meshflow.kernel.ask import describe
from meshflow.plugin.base import Plugin

_FIRST_LOOK_S = 0.05
log = logging.getLogger("meshflow.kernel")


@dataclass(frozen=True, slots=True)
class ReloadEvent:
    """How a reload that nobody asked for went: ``problem`` is empty where the change is in force."""

    plugin: str
    fingerprint: str
    problem: str = ""


class Watched(Protocol):
    """What a watcher needs of a runtime."""

    def watched(self) -> Mapping[str, Plugin[Any]]:
        """Return the plugins in use, by name."""
        ...

    def reload_blocking(self) -> str:
        """Reload and return the fingerprint in force."""
        ...


Tell = Callable[[ReloadEvent], None]


class Watcher:
    """One thread that asks plugins whether they have changed. It ends with its runtime."""

    def __init__(self, runtime: Watched, tell: Tell) -> None:
        self._runtime = weakref.ref(runtime)
        self._tell = tell
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._seen: dict[str, str] = {}
        self._tried: dict[str, str] = {}

    def begin(self) -> None:
        """Start the thread, if any plugin wants to be watched and it does not run."""
        runtime = self._runtime()
        if runtime is None or not _interval(runtime.watched()):
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stopped.clear()
                arguments = weakref.ref(self), self._stopped
                self._thread = threading.Thread(target=_watch, args=arguments, name="meshflow-watch", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread, after a reload that is under way."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def look(self) -> float:
        """Ask each plugin once, reload if need be, and return the seconds until the next look; 0 to end."""
        runtime = self._runtime()
        if runtime is None:
            return 0
        for name, plugin in runtime.watched().items():
            if not plugin.watch_s:
                continue
            sign = _changed(name, plugin)
            if sign and sign != self._tried.get(name):
                if self._seen.get(name) != sign:
                    self._seen[name] = sign  # somebody may still be writing
                else:
                    self._tried[name] = sign
                    self._reload(runtime, name)
        return _interval(runtime.watched())

    def _reload(self, runtime: Watched, name: str) -> None:
        try:
            event = ReloadEvent(name, runtime.reload_blocking())
        except Exception as error:
            event = ReloadEvent(name, "", str(error)[:2_000] or type(error).__name__)
            log.error("the change to what %s decides by is refused; what was in force stays: %s", name, event.problem)
        else:
            log.info("what %s decides by has changed; the pipeline is now %s", name, event.fingerprint)
        try:
            self._tell(event)
        except Exception as error:
            log.error("%s", describe("a reload's listener", error))


def _watch(reference: weakref.ref[Watcher], stopped: threading.Event) -> None:
    seconds = _FIRST_LOOK_S
    while seconds and not stopped.wait(seconds):
        watcher = reference()  # held for the look alone, so that a runtime that is lost can go
        seconds = watcher.look() if watcher is not None else 0.0
        del watcher


def _interval(plugins: Mapping[str, Plugin[Any]]) -> float:
    return min((plugin.watch_s for plugin in plugins.values() if plugin.watch_s), default=0.0)


def _changed(name: str, plugin: Plugin[Any]) -> str:
    try:
        return plugin.changed()
    except Exception as error:
        log.error("whether it has changed is not known: %s", describe(name, error))
        return ""
