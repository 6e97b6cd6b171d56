"""Stage 15: remembers how long each node took at worst."""

from __future__ import annotations

from meshflow.plugin import Host, NoSettings, Plugin, StepRecord, hookimpl


class Slowest(Plugin[NoSettings]):
    """Ask it through ``runtime.plugin("slowest").slowest_ns``."""

    def __init__(self, settings: NoSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self.slowest_ns: dict[str, int] = {}

    @hookimpl
    async def record_sla(self, record: StepRecord) -> None:
        self.slowest_ns[record.node_id] = max(self.slowest_ns.get(record.node_id, 0), record.duration_ns)
