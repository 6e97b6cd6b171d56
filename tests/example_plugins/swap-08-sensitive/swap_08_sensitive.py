"""Stage 8: the names of secret projects are replaced, in steps and in what the ledger keeps."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from meshflow.plugin import UNSET, Decision, Finding, Findings, Plugin, Settings, StepContext, hookimpl

DEPTH = 50


class CodenameSettings(Settings):
    names: tuple[str, ...] = Field(default=("bluebird",), description="Code names, as they are written.")


class Codenames(Plugin[CodenameSettings]):
    """Puts a placeholder in the place of each code name; what is nested too deeply is denied, not passed."""

    settings_type = CodenameSettings

    @hookimpl
    async def scan_sensitive_data(self, context: StepContext) -> Decision:
        found: list[Finding] = []
        try:
            cleaned = self._clean(context.input, "$", found)
        except RecursionError:
            return Decision.deny("sensitive_data_scan.too_deep", f"the input has more than {DEPTH} levels")
        return Decision.allow(fact=Findings(tuple(found)), replacement=cleaned if found else UNSET)

    def _clean(self, value: Any, path: str, found: list[Finding], depth: int = 0) -> Any:
        if depth > DEPTH:
            raise RecursionError
        if isinstance(value, str):
            for name in self.settings.names:
                start = value.find(name)
                if start >= 0:
                    found.append(Finding("CODENAME", path, "mask", 1.0, start, start + len(name)))
                    value = value.replace(name, "<CODENAME>")
            return value
        if isinstance(value, dict):
            return {key: self._clean(item, f"{path}.*", found, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item, f"{path}[*]", found, depth + 1) for item in value]
        return value
