"""JSON Schema for outputs, by tool or node; patterns in schemas run on a linear engine, references never leave."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from meshflow.plugin import ConfigError

_PATH = "plugins.guardrails.output_schemas"


class Schemas:
    """The validators of the schemas that the settings hold, each compiled once."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._validators: dict[str, Any] = {}
        if not schemas:
            return
        import jsonschema_rs

        for name, schema in schemas.items():
            try:
                self._validators[name] = jsonschema_rs.validator_for(
                    schema, pattern_options=jsonschema_rs.RegexOptions(), offline=True
                )
            except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
                problem = str(error).split("\n", 1)[0]
                raise ConfigError(f"no usable JSON Schema: {problem}", path=f"{_PATH}.{name}") from None

    def mismatch(self, names: tuple[str | None, ...], output: Any) -> dict[str, Any] | None:
        """Return where and by which keyword the output does not fit, or None; never what it holds."""
        if not self._validators:
            return None
        validator = next((self._validators[n] for n in (*names, "*") if n is not None and n in self._validators), None)
        if validator is None:
            return None
        candidates = [output]
        if isinstance(output, (str, bytes)):
            with suppress(ValueError, RecursionError):
                candidates = [json.loads(output), output]
        return _first_error(validator, candidates)


def _first_error(validator: Any, candidates: list[Any]) -> dict[str, Any] | None:
    first: dict[str, Any] | None = None
    for candidate in candidates:
        try:
            error = next(iter(validator.iter_errors(candidate)), None)
        except (ValueError, TypeError) as problem:  # a value that has no JSON form
            first = first or {"at": "", "keyword": "", "problem": type(problem).__name__}
            continue
        if error is None:
            return None
        if first is None:
            # Array indices and the schema's own names only: keys of the output may be anybody's words.
            first = {"at": "/".join(map(str, error.schema_path[:8])), "keyword": str(error.schema_path[-1])}
    return first
