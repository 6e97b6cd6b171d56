"""Import the job that an operator names on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import typer

from meshflow.cli.job import JobContext
from meshflow.errors import MeshflowError

Job = Callable[[JobContext], Awaitable[Mapping[str, Any] | None]]
DEFAULT_CALLABLE = "job"
_MODULE = "__meshflow_job__"


class _AsItStands(SourceFileLoader):
    """Compiles the file each time: bytecode kept beside it counts as fresh for a second, whatever was written since."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_job(target: str) -> Job:
    """Return the callable that ``path/to/job.py:callable`` or ``package.module:callable`` names.

    Only the command line may name one, never a file: importing runs code. ``typer.BadParameter`` says what is wrong.
    """
    found, place, name = load_named(target, DEFAULT_CALLABLE)
    if not _is_async(found):
        raise typer.BadParameter(f"{place}:{name} must be an async function: async def {name}(context): ...")
    return found  # type: ignore[no-any-return]


def load_named(target: str, default: str) -> tuple[Any, str, str]:
    """Return what a target names, or what goes by ``default`` in it, with the place and the name."""
    place, name = _split(target, default)
    found: Any = _import_file(place) if _is_file(place) else _import_module(place)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise typer.BadParameter(f"{place} has no {name!r}; name it as {place}:NAME") from None
    return found, place, name


def describe(error: BaseException, path: str | None = None) -> str:
    """Return an error in one line, with the place where it was raised: the last one inside ``path``, if any is."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if path is not None and os.path.abspath(frame.filename) == os.path.abspath(path)]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in (own or frames)[-1:])
    return f"{type(error).__name__}: {error}{where}" if str(error) else f"{type(error).__name__}{where}"


def file_of(job: Job) -> str | None:
    """Return the file that a job was written in."""
    try:
        return inspect.getsourcefile(inspect.unwrap(_inner(job)))
    except TypeError:
        return None


def _split(target: str, default: str) -> tuple[str, str]:
    place, colon, name = target.rpartition(":")
    # A colon may belong to the path (a drive, a folder's name); what follows a real one is an identifier.
    if colon and place and all(part.isidentifier() for part in name.split(".")):
        return place, name
    return target, default


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place or "/" in place or os.path.isfile(place)


def _import_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {place}" if not path.exists() else f"{place} is not a file")
    _on_path(os.getcwd())
    _on_path(str(path.resolve().parent))
    if path.suffix != ".py":
        raise typer.BadParameter(f"{place} is not a Python file; its name must end in .py")
    loader = _AsItStands(_MODULE, str(path.resolve()))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(_MODULE, loader))  # type: ignore[arg-type]
    sys.modules[_MODULE] = module  # as for any import: dataclasses and pickles look their module up
    _importing(place, lambda: loader.exec_module(module))
    return module


def _import_module(place: str) -> ModuleType:
    _on_path(os.getcwd())
    if not all(part.isidentifier() for part in place.split(".")):
        raise typer.BadParameter(f"{place!r} is neither a file nor a module; give path/to/job.py or package.module:job")
    module: ModuleType = _importing(place, lambda: importlib.import_module(place))
    return module


def _importing(place: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except MeshflowError:
        raise
    except (Exception, SystemExit) as error:
        raise typer.BadParameter(f"importing {place} failed: {describe(error, place)}") from error


def _on_path(folder: str) -> None:
    """Put a folder first, as Python does with that of the script it runs."""
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _inner(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


def _is_async(function: Any) -> bool:
    inner = _inner(function)
    return inspect.iscoroutinefunction(inspect.unwrap(inner)) or inspect.iscoroutinefunction(
        getattr(type(inner), "__call__", None)  # noqa: B004 - the method itself is asked for
    )
