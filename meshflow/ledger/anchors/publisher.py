"""Publishing to anchors in the background: a thread of its own, so that no step and no event loop waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.anchors.contract import Anchor, ContradictionError, Receipt
from meshflow.ledger.format.checkpoints import read_checkpoint

log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 900.0


class Anchored(Protocol):
    """The ledger, as far as publishing goes."""

    async def anchor(self, *anchors: Anchor) -> list[Receipt]:
        """Publish a checkpoint of the ledger as it is to every anchor, and record that."""
        ...

    async def newest_checkpoint(self) -> str | None:
        """Return a checkpoint that covers the ledger as it is; None for an empty one."""
        ...


@dataclass(slots=True)
class Standing:
    """How it stands with one anchor."""

    anchor: Anchor
    size: int = -1
    failures: int = 0
    problem: str = ""
    contradiction: str = ""
    tried: threading.Event = field(default_factory=threading.Event)


class Publisher:
    """Publishes to each anchor when entries have come and ``every_s`` have passed, and once more when it is closed.

    An anchor that fails is tried again, after pauses that grow to a quarter of an hour, and does not hold up the
    others. One that contradicts the ledger is left alone from then on: ``contradiction`` says so.
    """

    def __init__(self, ledger: Anchored, anchors: Sequence[Anchor], *, every_s: float) -> None:
        self._ledger = ledger
        self._every_s = every_s
        self.standings = [Standing(anchor) for anchor in anchors]
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def contradiction(self) -> str:
        """Return what an anchor keeps that the ledger contradicts, or nothing."""
        return next((one.contradiction for one in self.standings if one.contradiction), "")

    async def start(self, *, patience_s: float) -> None:
        """Begin, and wait for the first try of each anchor, or for as long as patience lasts.

        ContradictionError when one of them contradicts the ledger.
        """
        self._thread = threading.Thread(target=self._run, name="meshflow-anchors", daemon=True)
        self._thread.start()
        await asyncio.to_thread(self._first_tries, time.monotonic() + patience_s)
        if self.contradiction:
            raise ContradictionError(self.contradiction)

    def _first_tries(self, deadline: float) -> None:
        for one in self.standings:
            one.tried.wait(max(0.0, deadline - time.monotonic()))

    async def aclose(self, *, patience_s: float) -> None:
        """Publish what is new, for as long as patience lasts, and end."""
        self._closing.set()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, patience_s)
            if self._thread.is_alive():
                log.error("anchors did not take the last checkpoint within %g s", patience_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except RuntimeError as error:  # the interpreter ends, and takes its threads for closing with it
            log.info("publishing to anchors ended: %s", error)

    async def _work(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        await asyncio.gather(*(self._keep(one, self._wake) for one in self.standings))

    async def _keep(self, one: Standing, wake: asyncio.Event) -> None:
        """Publish to one anchor until the end, and one last time then."""
        while True:
            last = self._closing.is_set()
            await self._publish(one)
            one.tried.set()
            if last or one.contradiction:
                return
            pause = min(self._every_s * 2 ** min(one.failures, 20), max(_LONGEST_PAUSE_S, self._every_s))
            try:
                await asyncio.wait_for(wake.wait(), pause * random.uniform(0.9, 1.1))
            except TimeoutError:
                continue

    async def _publish(self, one: Standing) -> None:
        try:
            note = await self._ledger.newest_checkpoint()
            if note is None or (not one.failures and read_checkpoint(note).size == one.size):
                return
            await self._ledger.anchor(one.anchor)
            if one.failures:
                log.warning("%s takes checkpoints again", one.anchor.name)
            one.size, one.failures, one.problem = read_checkpoint(note).size, 0, ""
        except ContradictionError as error:
            one.contradiction = one.problem = str(error)
            log.critical("the ledger contradicts what is kept of it outside: %s", error)
        except LedgerError as error:
            self._failed(one, str(error))
        except Exception as error:  # an anchor is somebody's plugin, and the others go on
            self._failed(one, f"{one.anchor.name}: {type(error).__name__}: {error}")

    def _failed(self, one: Standing, problem: str) -> None:
        one.failures += 1
        one.problem = problem
        log.error("a checkpoint could not be published, and will be again (try %d): %s", one.failures, problem)
