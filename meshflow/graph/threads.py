"""The methods of a compiled graph that look at its threads, blocking and not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from meshflow.graph.errors import InvalidRunError
from meshflow.graph.host import Direct, Host, Looped, drive
from meshflow.graph.settings import RunOptions, settings_from
from meshflow.graph.state import StateSnapshot, ThreadView

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from meshflow.graph.saving import Saver
    from meshflow.graph.settings import Settings


class Threads:
    """Looks at threads, and changes them from outside. Needs a checkpointer and a thread."""

    def get_state(self, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> StateSnapshot:
        """Return the newest state of a thread, or that of a ``checkpoint_id``."""
        view, wait = self._blocking_view(config, options)
        state: StateSnapshot = wait(view.now())
        return state

    async def aget_state(self, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> StateSnapshot:
        """Do the same on the running event loop."""
        return await self._view(Looped(self._workers), config, options).now()

    def get_state_history(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        before: str | None = None,
        limit: int | None = None,
        **options: Unpack[RunOptions],
    ) -> Iterator[StateSnapshot]:
        """Yield the states of a thread, the newest first.

        ``filter`` holds entries that the metadata must have, as ``{"source": "loop"}``; ``before`` is a checkpoint id.
        """
        view, wait = self._blocking_view(config, options)
        states = view.history(filter, before, limit)
        while (state := wait(_next(states))) is not None:
            yield state

    async def aget_state_history(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        before: str | None = None,
        limit: int | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[StateSnapshot]:
        """Do the same on the running event loop."""
        async for state in self._view(Looped(self._workers), config, options).history(filter, before, limit):
            yield state

    def update_state(
        self,
        config: Mapping[str, Any] | None,
        values: Any,
        as_node: str | None = None,
        **options: Unpack[RunOptions],
    ) -> dict[str, Any]:
        """Write to a thread as if ``as_node`` had returned ``values``: by the reducers, and what follows it comes next.

        Without ``as_node`` it is the node that ran last. ``as_node=END`` with None ends the run. Returns the config of
        the new checkpoint.
        """
        view, wait = self._blocking_view(config, options)
        written: dict[str, Any] = wait(view.update(values, as_node))
        return written

    async def aupdate_state(
        self,
        config: Mapping[str, Any] | None,
        values: Any,
        as_node: str | None = None,
        **options: Unpack[RunOptions],
    ) -> dict[str, Any]:
        """Do the same on the running event loop."""
        return await self._view(Looped(self._workers), config, options).update(values, as_node)

    def delete_thread(self, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> None:
        """Forget a thread: its state, its history, what its nodes wrote, and all of it in the graphs inside.

        CheckpointConflictError while a run works on it.
        """
        view, wait = self._blocking_view(config, options)
        wait(view.delete())

    async def adelete_thread(self, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> None:
        """Do the same on the running event loop."""
        await self._view(Looped(self._workers), config, options).delete()

    def _blocking_view(
        self, config: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> tuple[ThreadView, Callable[[Coroutine[Any, Any, Any]], Any]]:
        if self.needs_loop:
            return self._view(Looped(self._workers), config, options), self._wait
        return self._view(Direct(self._workers), config, options), drive

    def _view(self, host: Host, config: Mapping[str, Any] | None, options: Mapping[str, Any]) -> ThreadView:
        settings = settings_from(config, options, self)
        saver = self._saver(settings, host)
        if saver is None:
            raise InvalidRunError("the graph keeps no threads; compile with a checkpointer")
        return ThreadView(self, settings, saver, host)  # type: ignore[arg-type]

    @property
    def needs_loop(self) -> bool:
        """Whether a run waits for anything that only an event loop brings."""
        raise NotImplementedError

    def _workers(self) -> ThreadPoolExecutor:
        raise NotImplementedError

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        raise NotImplementedError

    def _saver(self, settings: Settings, host: Host) -> Saver | None:
        raise NotImplementedError


async def _next(states: AsyncIterator[StateSnapshot]) -> StateSnapshot | None:
    return await anext(states, None)
