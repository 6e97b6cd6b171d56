"""What is asked of pydantic-ai before an agent is made: that it is there, and that it is given nothing ungoverned."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from meshflow.errors import ConfigError


def need_pydantic_ai() -> None:
    """Raise ConfigError when the library behind agents is not installed."""
    if find_spec("pydantic_ai") is None:
        raise ConfigError('an Agent needs pydantic-ai: pip install "meshflow[agent]"', where="Agent")


def output_function(output_type: Any) -> str | None:
    """Return the name of a function among the types of an output, which pydantic-ai would call; None without one."""
    from pydantic_ai.output import NativeOutput, PromptedOutput, TextOutput, ToolOutput

    waiting = [output_type]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Sequence) and not isinstance(one, str):
            waiting += one
        elif isinstance(one, ToolOutput):
            waiting.append(one.output)
        elif isinstance(one, NativeOutput | PromptedOutput):
            waiting.append(one.outputs)
        elif isinstance(one, TextOutput):
            return str(getattr(one.output_function, "__name__", "a function"))  # whatever can be called
        elif inspect.isroutine(one) or isinstance(one, partial):
            return str(getattr(one, "__name__", "a function"))
    return None
