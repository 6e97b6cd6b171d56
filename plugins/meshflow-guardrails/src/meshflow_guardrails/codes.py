"""The denial codes of this plugin and what each means."""

from __future__ import annotations

_BOTH = {
    "prompt_injection": "the signals of an instruction to the model, where only data should be, reach the threshold",
    "hidden_characters": "the text holds characters that show nothing, and the settings refuse them",
    "too_long": "there is more text, or there are more values, than the settings let through",
    "too_deep": "values are nested deeper than max_depth",
    "forbidden_pattern": "a rule of the operator's own, whose action is deny, matches",
    "canary_leaked": "a canary token, planted where no one should read it aloud, appears",
}

CODES: dict[str, str] = {
    f"{stage}.{cause}": meaning
    for stage in ("input_guardrails", "output_guardrails")
    for cause, meaning in _BOTH.items()
} | {
    "output_guardrails.schema_mismatch": "the output does not fit the JSON Schema set for it",
    "output_guardrails.exfiltration_link": "a link or an image carries data to a host that is not allowed",
    "output_guardrails.over_cap": "a stream gave more text than cap_output lets through; part of it has been released",
    "output_guardrails.unclear_obligation": "cap_output names no number of characters",
}
