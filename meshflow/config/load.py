"""Make a Config of a file, of text, or of a mapping; anything wrong is a ConfigError that says where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meshflow.config.check import check_document
from meshflow.config.document import check_scalar, read_yaml
from meshflow.config.interpolate import MAX_TEXT
from meshflow.config.models import SECTIONS, Config, Document
from meshflow.config.problems import Problem, raise_problems, validate
from meshflow.config.source import MAX_DEPTH, MAX_NODES, SettingPath, Source, shown
from meshflow.errors import ConfigError

__all__ = ["Config", "config_from_mapping", "load_config", "parse_config"]


def load_config(path: str | Path, *, environ: Mapping[str, str] | None = None) -> Config:
    """Read a file; relative paths in it start from its folder. ``environ`` defaults to the process's environment."""
    name = os.fspath(path)
    return parse_config(read_text(name), name=name, base=Path(name).absolute().parent, environ=environ)


def read_text(name: str) -> str:
    """Return what a file holds; ConfigError for one that cannot be read, is too long, or is no text."""
    data = b""
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_TEXT + 1)
        text = data.decode("utf-8-sig") if len(data) <= MAX_TEXT else ""
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror or error}", where=name) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("the file is not UTF-8 text", where=f"{name}:{line}") from error
    except ValueError as error:
        raise ConfigError("cannot read the file: its name holds a NUL character", where=shown(name)) from error
    if len(data) > MAX_TEXT:
        raise ConfigError(f"more than {MAX_TEXT} bytes", where=name)
    return text


def parse_config(
    text: str, *, name: str = "meshflow.yaml", base: Path, environ: Mapping[str, str] | None = None
) -> Config:
    """Read the text of a meshflow.yaml; ``name`` stands in messages, and relative paths start from ``base``."""
    value, source = read_yaml(text, name, os.environ if environ is None else environ)
    return _config(value, source, base)


def config_from_mapping(mapping: Mapping[str, Any], *, base: Path = Path(), name: str = "configuration") -> Config:
    """Take settings made in Python. They are copied; ``${NAME}`` in them is plain text; errors have paths, no lines."""
    source = Source(name)
    return _config(_Copy(source).take(mapping, ()), source, base)


def _config(value: Any, source: Source, base: Path) -> Config:
    if value is not None and not isinstance(value, dict):
        raise ConfigError("should be a mapping with keys such as stages and plugins", where=source.name)
    document = validate(Document, value, source)
    raise_problems(check_document(document, source), source)
    sections = {key: part for key in SECTIONS if (part := getattr(document, key)) is not None}
    return Config(
        version=document.version,
        stages=MappingProxyType(document.stages),
        plugins=MappingProxyType(document.plugins.model_extra or {}),
        allow=document.plugins.allow,
        disable=document.plugins.disable,
        sections=MappingProxyType(sections),
        approvals=document.approvals,
        tenants=MappingProxyType(document.tenants),
        base=base,
        name=source.name,
        source=source,
    )


class _Copy:
    """Copies a tree of plain values within the bounds that also hold for files."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._count = 0

    def take(self, value: object, path: SettingPath) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise self._error(path, f"more than {MAX_NODES} values")
        if len(path) > MAX_DEPTH:
            raise self._error(path, f"more than {MAX_DEPTH} levels deep")
        if isinstance(value, Mapping):
            return {self._key(key, path): self.take(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.take(item, (*path, index)) for index, item in enumerate(value)]
        return self._scalar(value.value if isinstance(value, Enum) else value, path)

    def _key(self, key: object, path: SettingPath) -> str:
        if not isinstance(key, str):
            raise self._error(path, f"a key is text, not {type(key).__name__}")
        wrong = check_scalar(key)
        if wrong:
            raise self._error(path, f"key {shown(key)} {wrong}")
        return str(key)

    def _scalar(self, value: object, path: SettingPath) -> bool | int | float | str | None:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if value is not None and not isinstance(value, bool | int | float | str):
            kind = type(value).__name__
            raise self._error(path, f"a setting is text, a number, true, false, a list or a mapping, not {kind}")
        wrong = check_scalar(value)
        if wrong:
            raise self._error(path, wrong)
        return value

    def _error(self, path: SettingPath, message: str) -> ConfigError:
        return Problem(path, message).error(self._source)
