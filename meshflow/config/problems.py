"""Say what is wrong with a setting, where it stands, and what was probably meant, without showing secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meshflow.config.names import names_at
from meshflow.config.source import SettingPath, Source, dotted, shown
from meshflow.errors import ConfigError

BOOLEAN_HINT: Final = "YAML reads off, no and false as false, and on, yes and true as true; quote the word"
_MAX_PROBLEMS = 25
_MAX_COLLECTED = 1_000
_MAX_MATCHED = 64
_MAX_NAMES = 15
_PART = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
ModelT = TypeVar("ModelT", bound=BaseModel)

# Messages of these name what was expected and never what was given; all others may quote the value.
_SILENT = frozenset({
    "bool_parsing", "bool_type", "dict_type", "enum", "extra_forbidden", "finite_number", "float_parsing", "float_type",
    "greater_than", "greater_than_equal", "int_from_float", "int_parsing", "int_type", "less_than", "less_than_equal",
    "list_type", "literal_error", "mapping_type", "missing", "model_type", "multiple_of", "string_pattern_mismatch",
    "string_too_long", "string_too_short", "string_type", "too_long", "too_short", "tuple_type",
})  # fmt: skip
_NAME_EXPECTED = frozenset({"enum", "list_type", "literal_error", "model_type", "string_type", "tuple_type"})
_SHAPES = {
    "dict_type": "should be a mapping", "mapping_type": "should be a mapping", "model_type": "should be a mapping",
    "list_type": "should be a list", "tuple_type": "should be a list", "string_type": "should be text",
    "missing": "is required and not set",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and the path of the setting; ``where`` is set where the place is known more closely."""

    path: SettingPath
    message: str
    where: str = ""

    def error(self, source: Source, where: str = "") -> ConfigError:
        """Return the error that names file, line and path."""
        where = where or self.where or source.where(self.path)
        return ConfigError(self.message, where=where, path=dotted(source.written(self.path)))


def raise_problems(problems: Iterable[Problem], source: Source) -> None:
    """Raise one ConfigError that lists the problems by line, one a line; nothing when there are none."""
    distinct = dict.fromkeys(islice(problems, _MAX_COLLECTED))
    ordered = sorted(distinct, key=lambda problem: source.line(problem.path))
    if not ordered:
        return
    texts = [str(problem.error(source)) for problem in ordered[1:_MAX_PROBLEMS]]
    if len(ordered) > _MAX_PROBLEMS:
        texts.append(f"and {len(ordered) - _MAX_PROBLEMS} more")
    raise replace(ordered[0], message="\n".join([ordered[0].message, *texts])).error(source)


def located(error: ConfigError, source: Source) -> ConfigError:
    """Return the error with the line of the setting that it names, where it names one and does not know the line."""
    if error.where or not error.path or not source.lines:
        return error
    parts = _PART.findall(error.path)
    path: SettingPath = tuple(int(index) if index else name for name, index in parts)
    return type(error)(error.problem, where=source.where(path), path=dotted(source.written(path)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean bundle?)``, or nothing when no known name is close."""
    if len(name) > _MAX_MATCHED:
        return ""
    close = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return ``unknown setting (did you mean bundle?)``, or the names that there are."""
    names = sorted(known)
    hint = did_you_mean(name, names)
    if hint or not names:
        return f"unknown {what}{hint}"
    more = ", ..." if len(names) > _MAX_NAMES else ""
    return f"unknown {what} (there are {', '.join(names[:_MAX_NAMES])}{more})"


def validate(
    model: type[ModelT],
    data: Any,
    source: Source,
    locate: Callable[[SettingPath], SettingPath] = lambda path: path,
) -> ModelT:
    """Return the model made of the data; ConfigError for all that is wrong with it.

    ``locate`` turns a path within the data into the path of the file.
    """
    made, problems = try_validate(model, data, source, locate)
    raise_problems(problems, source)
    if made is None:
        raise AssertionError("a ValidationError without errors")
    return made


def try_validate(
    model: type[ModelT],
    data: Any,
    source: Source,
    locate: Callable[[SettingPath], SettingPath] = lambda path: path,
) -> tuple[ModelT | None, list[Problem]]:
    """Do the same for a part of a file, and return what is wrong with it instead of raising."""
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    # Outside the handler: pydantic's error quotes the values and may not hang on one of ours as its context.
    return None, [_problem(detail, model, data, source, locate) for detail in details[:_MAX_COLLECTED]]


def _problem(
    detail: ErrorDetails,
    model: type[BaseModel],
    data: Any,
    source: Source,
    locate: Callable[[SettingPath], SettingPath],
) -> Problem:
    inside, value = _reach(detail, data)
    path = locate(inside)
    message = _message(detail, model, inside)
    given = source.variables_in(path, value)
    if detail["type"] in ("extra_forbidden", "missing"):
        return Problem(path, message)
    if not given:
        return Problem(path, message + _quoted(detail) + _hint(detail, model))
    names = ", ".join(dict.fromkeys(name for _, name in given))
    itself = not isinstance(value, Mapping | list | tuple)
    if (itself and detail["type"] not in _SILENT) or any(_reveals(message, text) for text, _ in given):
        message = "is not accepted"
    return Problem(path, f"value from {names} {message}" if itself else f"{message} (with values from {names})")


def _reach(detail: ErrorDetails, data: Any) -> tuple[SettingPath, Any]:
    """Return the path in the data, without pydantic's labels of unions and validators, and the value there."""
    path: list[str | int] = []
    value = data
    for part in detail["loc"]:
        known: Mapping[Any, Any] = dict(enumerate(value)) if isinstance(value, list | tuple) else {}
        known = value if isinstance(value, Mapping) else known
        if part in known:
            path.append(part)
            value = known[part]
    if detail["type"] == "missing" and detail["loc"]:
        return (*path, detail["loc"][-1]), None
    return tuple(path), value


def _message(detail: ErrorDetails, model: type[BaseModel], inside: SettingPath) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return unknown("setting", str(detail["loc"][-1]), names_at(model, detail["loc"][:-1]))
    if kind in _SHAPES:
        return _SHAPES[kind]
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.removeprefix("Input ").removeprefix("String ").removeprefix("List ")
    if text.startswith("should be a valid integer"):
        text = "should be a whole number"
    text = text.replace("should be a valid number", "should be a number").replace("a valid boolean", "true or false")
    return text.split(", unable to ")[0] or "is not accepted"


def _quoted(detail: ErrorDetails) -> str:
    """Return what was given, where it can hardly be a secret: numbers, words, and text where a choice was expected."""
    kind, value = detail["type"], detail["input"]
    if kind in ("value_error", "assertion_error"):
        return ""
    if isinstance(value, Mapping):
        return ", not a mapping" if kind in _SHAPES else ""
    if isinstance(value, list | tuple):
        return ", not a list" if kind in _SHAPES else ""
    if isinstance(value, str) and kind not in ("literal_error", "enum"):
        return ", not text" if kind in _SHAPES else ""
    return f", not {shown(value)}"


def _hint(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "dict_type" and detail["loc"]:
        name, known = str(detail["loc"][-1]), names_at(model, detail["loc"][:-1])
        return "" if name in known else did_you_mean(name, known)
    if isinstance(value, bool) and kind in _NAME_EXPECTED:
        return f" ({BOOLEAN_HINT})"
    if isinstance(value, str) and kind in ("literal_error", "enum"):
        return did_you_mean(value, re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", ""))))
    return ""


def _reveals(message: str, value: str) -> bool:
    """Say whether the message repeats the value, or six characters of it in a row."""
    message, value = message.casefold(), value.casefold()
    width = min(len(value), 6)
    return width > 0 and any(message[at : at + width] in value for at in range(len(message) - width + 1))
