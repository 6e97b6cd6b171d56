"""The denial codes of this plugin and what each means."""

from __future__ import annotations

_CAUSES = {
    "forbidden_entity": "the text holds a kind of data whose action is deny",
    "timeout": "a scan took longer than timeout_ms, so the text cannot be called clean",
    "too_deep": "values are nested deeper than max_depth",
    "too_large": "there is more text, or there are more values, than the plugin is set to scan",
    "entity_not_covered": "an obligation asks to mask a kind of data that nothing loaded can find",
    "scanner_unavailable": "a scanner that the settings ask for could not run",
}

CODES: dict[str, str] = {
    f"{stage}.{cause}": meaning
    for stage in ("sensitive_data_scan", "output_guardrails")
    for cause, meaning in _CAUSES.items()
} | {
    "output_guardrails.sensitive_data_released": (
        "the whole of a stream holds data that should have been masked, and it has been released already"
    ),
}
