"""Check a tool's arguments against its JSON Schema, in linear time and without saying what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshflow.plugin import ConfigError

_MASK = "the value"
_MAX_DEPTH = 64
_MAX_NODES = 200_000
_MAX_PATTERN_BYTES = 1_000_000
_MAX_REASON = 300

# Messages of these keywords quote the schema alone; those of others may quote names or values from the arguments.
_SAFE = frozenset(
    {
        "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maxProperties",
        "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "required", "type",
        "uniqueItems",
    }
)  # fmt: skip


class ArgumentSchema:
    """One compiled schema. ``problem`` returns what is wrong with arguments, or an empty text.

    The arguments are measured before they are validated: on arguments nested 100,000 deep a recursive schema
    overflows the validator's stack, and on arguments that hold themselves it never ends.
    """

    __slots__ = ("_names", "_validator")

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        import jsonschema_rs

        self._names = frozenset(_property_names(schema))
        try:
            self._validator = jsonschema_rs.validator_for(
                schema,
                validate_formats=True,
                mask=_MASK,
                offline=True,
                # The default engine backtracks; this one is linear and refuses look-around and back-references.
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_MAX_PATTERN_BYTES),
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise ConfigError(_why_refused(error)) from None

    def problem(self, arguments: object) -> str:
        """Return what is wrong and where, quoting only names that the schema holds; empty where nothing is."""
        if not isinstance(arguments, Mapping):
            return "the arguments of a tool must be a mapping"
        plain = arguments if type(arguments) is dict else dict(arguments)
        if not _measured(plain):
            return f"the arguments nest deeper than {_MAX_DEPTH} or hold more than {_MAX_NODES} values"
        try:
            if self._validator.is_valid(plain):
                return ""
            error = next(iter(self._validator.iter_errors(plain)), None)
        except (ValueError, TypeError):
            return "the arguments hold a value that JSON cannot express"
        return "the arguments do not match the schema" if error is None else self._words(error)

    def _words(self, error: Any) -> str:
        keyword = str(error.kind.name)
        where = "/".join(self._shown(part) for part in error.instance_path) or "arguments"
        inside_names = "propertyNames" in error.schema_path
        if keyword in _SAFE and not inside_names:
            return f"{where}: {error.message}"[:_MAX_REASON]
        if keyword in ("additionalProperties", "unevaluatedProperties", "false_schema"):
            return f"{where}: there are arguments that the schema does not allow"
        return f"{where}: the schema's {keyword} is not met"

    def _shown(self, part: str | int) -> str:
        return str(part) if isinstance(part, int) or part in self._names else "*"


def _property_names(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            properties = part.get("properties")
            if isinstance(properties, Mapping):
                yield from properties
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _measured(arguments: dict[Any, Any]) -> bool:
    """Say whether the arguments are shallow and small enough to validate; level by level, so never recursive."""
    level: list[Any] = [arguments]
    nodes = 0
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for part in level:
            nodes += len(part)
            if nodes > _MAX_NODES:
                return False
            values = part.values() if isinstance(part, dict) else part
            below += [value for value in values if isinstance(value, (dict, list, tuple))]
        if not below:
            return True
        level = below
    return False


def _why_refused(error: Exception) -> str:
    text = getattr(error, "message", None) or str(error)
    path = "/".join(str(part) for part in getattr(error, "instance_path", ()))
    hint = " (patterns with look-around, back-references or huge repetition are refused)" if "regex" in text else ""
    return f"not a usable JSON Schema{f' at {path}' if path else ''}: {text.splitlines()[0][:_MAX_REASON]}{hint}"
