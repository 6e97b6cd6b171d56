"""What runs had spent when they came to a step, kept in memory as far as it was asked for."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections import OrderedDict

from meshflow.ledger.history import HistoryStore

_RUNS_KEPT = 8
_PAUSE_EVERY = 8_192


class Spending:
    """Adds up the costs of a run once, then answers from memory: entries only ever join at the end."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._runs: OrderedDict[tuple[str, str | None], tuple[array[int], array[int], array[int]]] = OrderedDict()

    async def until(self, run_id: str, step_index: int, tenant: str | None) -> tuple[int, int]:
        """Return cost in micro-USD and tokens of a run's own steps up to an index, that step included."""
        key = (run_id, tenant)
        indexes, costs, tokens = self._runs.get(key) or (array("q"), array("q"), array("q"))
        if not indexes or indexes[-1] < step_index:
            after = indexes[-1] if indexes else -1
            for number, (index, cost, used) in enumerate(await self._store.spending(run_id, after, tenant)):
                if number % _PAUSE_EVERY == 0:
                    await asyncio.sleep(0)
                if indexes and index <= indexes[-1]:
                    continue  # another task has asked the same meanwhile
                indexes.append(index)
                costs.append(cost + (costs[-1] if costs else 0))
                tokens.append(used + (tokens[-1] if tokens else 0))
            self._runs[key] = (indexes, costs, tokens)
        self._runs.move_to_end(key)
        while len(self._runs) > _RUNS_KEPT:
            self._runs.popitem(last=False)
        place = bisect_right(indexes, step_index) - 1
        return (costs[place], tokens[place]) if place >= 0 else (0, 0)
