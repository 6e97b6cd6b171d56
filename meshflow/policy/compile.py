"""Parse and check bundles with the embedded parser; what one engine refuses to load, no other is given.

All engines share this front: one dialect, the same refusals with the same file and line. What only an evaluator itself
finds, it says when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from meshflow.errors import ConfigError
from meshflow.policy.analysis import Analysis, analyse
from meshflow.policy.builtins import builtins_of
from meshflow.policy.bundle import Bundle
from meshflow.policy.embedded import Engine
from meshflow.policy.source import check_source
from meshflow.policy.syntax import Node
from meshflow.policy.worker import freed_here

_PLACE = re.compile(r"^--> (.+):(\d+):\d+$", re.MULTILINE)
_MESSAGE = re.compile(r"^error: (.*)$", re.MULTILINE)


def new_engine(bundle: Bundle) -> Engine:
    """Return an engine that holds the bundle, parsed; only for the thread that calls. ConfigError names file:line."""
    engine = Engine()
    engine.set_gather_prints(True)
    for path, text in bundle.policies.items():
        check_source(text, path)
        guarded(engine.add_policy, path, text, file=path)
    guarded(engine.add_data_json, bundle.data_json.decode(), file="data")
    return engine


def modules_of(engine: Engine) -> list[Node]:
    """Return the syntax trees of what an engine holds."""
    modules: list[Node] = orjson.loads(engine.get_ast_as_json())
    return modules


def analyse_engine(engine: Engine, bundle: Bundle, evaluator: str = "regorus") -> Analysis:
    """Check what the bundle defines and calls against what the evaluator knows, then have it compiled."""
    analysis = analyse(modules_of(engine), builtins_of(evaluator), bundle.data, evaluator)
    engine.set_input_json("{}")
    guarded(engine.eval_query, "true", file=bundle.name)
    return analysis


def inspect(bundle: Bundle, evaluator: str) -> Analysis:
    """Check a bundle that another engine will evaluate."""
    with freed_here(), bundle.errors_placed():
        return analyse_engine(new_engine(bundle), bundle, evaluator)


def guarded(action: Callable[..., object], *arguments: str, file: str) -> None:
    """Call the embedded engine; ConfigError names ``file``, or the place inside of it that the engine names."""
    try:
        action(*arguments)
    except RuntimeError as error:
        where, message = describe(error)
        raise ConfigError(message, where=where or file) from None


def describe(error: RuntimeError) -> tuple[str, str]:
    """Return ``file:line`` and the message of an engine's error, without snippet and stack dump.

    The message may quote values: it is for those who load or test a bundle, never for a step's reason.
    """
    text = str(error).split("\n\nStack backtrace:", 1)[0]
    place, message = _PLACE.search(text), _MESSAGE.search(text)
    where = f"{place[1]}:{place[2]}" if place else ""
    return where, message[1] if message else text.strip().splitlines()[0]
