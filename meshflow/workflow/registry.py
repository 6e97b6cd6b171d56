"""What nodes may call by name: functions, tools, agents, models and workflows that code has registered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, overload

from meshflow.config.problems import unknown
from meshflow.config.source import shown
from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.agent.pricing import TokenPrice
    from meshflow.workflow.definition import WorkflowDefinition

_SENDABLE = re.compile(r"[!-~]([\t -~]*[!-~])?|")
F = TypeVar("F", bound=Callable[..., Any])
FUNCTION_GROUP = "meshflow.workflow.functions"


class Registry:
    """Names for what a workflow's nodes call. A file can only choose among them; it never names code.

    A function takes the node's input and returns its output; a tool takes its arguments by name. Both may be async, and
    return ``Metered`` to say what they cost. An agent has ``async run(input)`` (what it returns may have an ``output``)
    or is such a function itself. A model is such a function, or one of pydantic-ai's. Functions that installed packages
    offer under the entry point group ``meshflow.workflow.functions`` need no registration.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {
            "function": {}, "tool": {}, "agent": {}, "model": {}, "workflow": {}, "server": {},
        }  # fmt: skip
        self.hosts: set[str] = set()
        self._headers: dict[str, Mapping[str, str | Callable[[], str]]] = {}
        self.prices: dict[str, TokenPrice] = {}

    @overload
    def function(self, function: F, /, *, name: str | None = None) -> F: ...
    @overload
    def function(self, function: None = None, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def function(self, function: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
        """Register what a python node calls; also a decorator. The name is the function's own if none is given."""
        return self._named("function", function, name)

    @overload
    def tool(self, function: F, /, *, name: str | None = None) -> F: ...
    @overload
    def tool(self, function: None = None, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def tool(self, function: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
        """Register a tool; also a decorator."""
        return self._named("tool", function, name)

    def agent(self, name: str, agent: Any) -> None:
        """Register an agent."""
        self._add("agent", name, agent)

    def model(self, name: str, model: Any, *, price: TokenPrice | None = None) -> None:
        """Register a model: a function from prompt to answer, or a model of pydantic-ai, by its name or as an object.

        ``price`` is that of a pydantic-ai model whose price is not listed, or is another for you.
        """
        if price is not None:
            if self.prices.get(name, price) != price:
                raise ConfigError(f"there is a price of model {name!r} already; give one", where="Registry")
            self.prices[name] = price
        self._add("model", name, model)

    def workflow(self, name: str, workflow: WorkflowDefinition) -> None:
        """Register a workflow that subgraph nodes run by ``ref``."""
        self._add("workflow", name, workflow)

    def server(self, name: str, server: Any) -> None:
        """Register an MCP server: its address, the parameters that start it, or a server in this process."""
        self._add("server", name, server)

    def allow_host(self, *hosts: str, headers: Mapping[str, str | Callable[[], str]] | None = None) -> None:
        """Let http nodes talk to these hosts (``api.example.org``, with ``:8443`` for another port).

        ``headers`` go with each request to them and into no record: keys and tokens, or functions that give them.
        """
        for name, value in (headers or {}).items():
            if problem := "" if callable(value) else unsendable(value):
                raise ConfigError(f"the value of the header {name!r} cannot be sent: {problem}", where="Registry")
        for host in map(str.lower, hosts):
            known = self._headers.get(host, headers)
            if headers is not None and known != headers:
                raise ConfigError(f"there are headers for host {host!r} already; give them once", where="Registry")
            self.hosts.add(host)
            if headers is not None:
                self._headers[host] = dict(headers)

    def headers_for(self, host: str) -> Mapping[str, str | Callable[[], str]]:
        """Return the headers that go with each request to a host."""
        return self._headers.get(host, {})

    def update(self, other: Registry) -> None:
        """Take over all that another registry has; ConfigError where both give one name to different things."""
        for what, known in other._known.items():
            for name, thing in known.items():
                self._add(what, name, thing)
        for name, price in other.prices.items():
            if self.prices.setdefault(name, price) != price:
                raise ConfigError(f"there is a price of model {name!r} already; give one", where="Registry")
        for host in other.hosts:
            self.allow_host(host, headers=other._headers.get(host))

    def has(self, what: str, name: str) -> bool:
        """Say whether code has registered something under a name."""
        return name in self._known[what]

    def find(self, what: str, name: str) -> Any:
        """Return what goes by a name; ConfigError says which names there are."""
        known: Mapping[str, Any] = self._known[what]
        if name in known:
            return known[name]
        offered = _offered() if what == "function" else {}
        if name in offered:
            return _loaded(offered[name])
        names = {*known, *offered}
        hint = unknown(what, name, names) if names else f"no {what} is registered"
        raise ConfigError(f"{hint}: {shown(name)}; register it with Registry.{what}, in the file that --with names")

    def _named(self, what: str, function: F | None, name: str | None) -> F | Callable[[F], F]:
        def register(given: F) -> F:
            self._add(what, name or str(getattr(given, "__name__", "")), given)
            return given

        return register if function is None else register(function)

    def _add(self, what: str, name: str, thing: Any) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"a {what} needs a name to be registered under", where="Registry")
        if name in self._known[what] and self._known[what][name] is not thing:
            raise ConfigError(f"there is a {what} {name!r} already; give this one another name", where="Registry")
        self._known[what][name] = thing


def unsendable(value: Any) -> str:
    """Say what is wrong with a header's value, without it: the library that would send it puts it into its error."""
    if not isinstance(value, str):
        return f"it is of type {type(value).__name__}, not a text"
    return "" if _SENDABLE.fullmatch(value) else "it begins or ends with white space, or is not all printable ASCII"


def _offered() -> dict[str, EntryPoint]:
    """Return the functions that installed packages offer; a name that two offer is nobody's."""
    found: dict[str, EntryPoint] = {}
    twice: set[str] = set()
    for entry in entry_points(group=FUNCTION_GROUP):
        if entry.name in found and found[entry.name].value != entry.value:
            twice.add(entry.name)
        found[entry.name] = entry
    return {name: entry for name, entry in found.items() if name not in twice}


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        message = f"importing the function {entry.name!r} ({entry.value}) failed: {type(error).__name__}: {error}"
        raise ConfigError(message) from error
