"""Stage 14: one JSON line for each intent and each record, on disk before the step goes on."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

from pydantic import Field

from meshflow.plugin import Host, Plugin, Settings, StepContext, StepRecord, hookimpl


class JsonLinesSettings(Settings):
    path: Path = Field(default=Path("steps.jsonl"), description="File to append to; relative to meshflow.yaml.")


class JsonLines(Plugin[JsonLinesSettings]):
    """Appends and syncs, one line at a time. A line that is there already is not written again; another one under its
    name is refused. Nothing protects the file itself: this is an example, not evidence."""

    settings_type = JsonLinesSettings

    def __init__(self, settings: JsonLinesSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._lock = threading.Lock()
        self._kept: dict[str, str] = {}

    @property
    def path(self) -> Path:
        return self.host.base / self.settings.path

    @hookimpl
    async def startup(self) -> None:
        lines = await asyncio.to_thread(self._lines)
        self._kept = {json.loads(line)["key"]: line for line in lines}

    @hookimpl
    async def record_intent(self, context: StepContext) -> None:
        await self._keep("intent", context.run_id, context.step_id, context.attempt, {"input": context.recorded_input})

    @hookimpl
    async def record_audit(self, record: StepRecord) -> None:
        body = {
            "verdict": record.verdict.value,
            "code": record.code,
            "input": record.input,
            "output": record.output,
            "results": [result.to_dict() for result in record.results],
            "fingerprint": record.fingerprint,
        }
        await self._keep("step", record.run_id, record.step_id, record.attempt, body)

    async def _keep(self, kind: str, run_id: str, step_id: str, attempt: int, body: dict[str, Any]) -> None:
        await asyncio.to_thread(self._write, json.dumps([run_id, step_id, attempt, kind]), body)

    def _write(self, key: str, body: dict[str, Any]) -> None:
        line = json.dumps({"key": key, **body}, default=repr)
        with self._lock:
            if self._kept.get(key, line) != line:
                raise ValueError(f"{key} is recorded already, and otherwise")
            if key not in self._kept:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                self._kept[key] = line

    def _lines(self) -> list[str]:
        return self.path.read_text("utf-8").splitlines() if self.path.exists() else []
