"""Check a run's input against the JSON Schema that the workflow gives for it."""

from __future__ import annotations

from typing import Any

from meshflow.errors import ConfigError

_MAX_PATTERN_BYTES = 1_000_000
_MAX_REASON = 300


class InputSchema:
    """One compiled schema; its patterns match in linear time, and it refers to nothing outside of itself."""

    def __init__(self, schema: Any) -> None:
        import jsonschema_rs

        if not isinstance(schema, dict | bool):
            raise ConfigError("should be a JSON Schema, a mapping")
        try:
            self._validator = jsonschema_rs.validator_for(
                schema, validate_formats=True, mask="the value", offline=True,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_MAX_PATTERN_BYTES),
            )  # fmt: skip
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            text = str(getattr(error, "message", None) or error).splitlines()[0]
            raise ConfigError(f"is not a usable JSON Schema: {text[:_MAX_REASON]}") from None

    def problem(self, value: Any) -> str:
        """Return what is wrong with a plain value and where, without the value; empty where nothing is."""
        error = next(iter(self._validator.iter_errors(value)), None)
        if error is None:
            return ""
        where = "/".join(str(part) for part in error.instance_path)
        return f"the input does not match its schema{f' at {where}' if where else ''}: {error.message}"[:_MAX_REASON]
