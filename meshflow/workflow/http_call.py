"""What an http node does: one request to a host that was allowed in code, and nothing that the answer asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from meshflow.config.problems import did_you_mean
from meshflow.errors import ConfigError
from meshflow.step import current_step
from meshflow.workflow.registry import Registry, unsendable
from meshflow.workflow.spec.nodes import HttpNode
from meshflow.workflow.template import OPEN

MAX_ANSWER = 8 * 1024 * 1024
_PORTS = {"http": 80, "https": 443}
_HERE = ("localhost", "127.0.0.1", "::1")


class HttpStatusError(Exception):
    """An answer that says the request did not succeed."""


def requester(spec: HttpNode, registry: Registry) -> Callable[[Any], Awaitable[Any]]:
    """Return the handler of an http node; ConfigError where its host is not allowed or httpx is not installed.

    The host is the one that the file writes out: an expression fills in the path and the query, never where the request
    goes. Redirects are answers like others; proxies of the environment are not used. What code gave as headers for the
    host is added here, past every record, and goes out encrypted or stays on the machine.
    """
    try:
        import httpx
    except ImportError as error:
        raise ConfigError('an http node needs httpx; install it with pip install "meshflow[http]"') from error
    origin = _origin(spec.url.partition(OPEN)[0])
    if origin[1] not in registry.hosts:
        known = ", ".join(sorted(registry.hosts)) or "none"
        hint = did_you_mean(origin[1], registry.hosts)
        raise ConfigError(
            f"host {origin[1]} is not allowed{hint} (allowed: {known}); allow it with Registry.allow_host"
        )

    own = registry.headers_for(origin[1])
    owned = {name.lower() for name in own}
    if own and origin[0] != "https" and urlsplit(spec.url.partition(OPEN)[0]).hostname not in _HERE:
        raise ConfigError(f"host {origin[1]} has headers of its own, which are sent by https only")

    async def request(given: Any) -> Any:
        # What is asked is what the library reads in the address, not what another parser does.
        url = httpx.URL(str(given.get("url"))) if isinstance(given, Mapping) else httpx.URL()
        if not isinstance(given, Mapping) or _origin(str(url)) != origin:
            raise ValueError("the address of the request is not the one that was allowed")
        if {".", ".."} & set(str(given.get("url")).partition("?")[0].split("/")):
            raise ValueError("the address of the request has a part . or .., which leads elsewhere")
        headers = dict(given.get("headers") or {}) | {"Accept-Encoding": "identity"}
        step = current_step()
        if step is not None and spec.method not in ("GET", "HEAD"):
            headers.setdefault("Idempotency-Key", step.idempotency_key)
        body = given.get("body")
        content = None if body is None else body if isinstance(body, str) else orjson.dumps(body)
        if content is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
        headers = {name: value for name, value in headers.items() if name.lower() not in owned}
        headers |= {name: value() if callable(value) else value for name, value in own.items()}
        for name, value in headers.items():
            if problem := unsendable(value):
                raise ValueError(f"the value of the header {name} cannot be sent: {problem}")
        timeout = httpx.Timeout(None)  # the step's own time-out holds for all of it
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=timeout) as client,
            client.stream(spec.method, url, headers=headers, content=content) as response,
        ):
            return await _answer(response)

    return request


async def _answer(response: Any) -> dict[str, Any]:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ValueError(f"the answer is encoded as {encoding[:20]}, and was asked for as it is")
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > MAX_ANSWER:
            raise ValueError(f"the answer is longer than {MAX_ANSWER:,} bytes")
    kind = response.headers.get("content-type", "")
    body: Any = bytes(data).decode(response.encoding or "utf-8", "replace")
    if kind.partition(";")[0].strip().lower().endswith(("/json", "+json")):
        body = orjson.loads(bytes(data))
    if response.status_code >= 400:
        raise HttpStatusError(f"{response.status_code}: {str(body)[:200]}")
    return {"status": response.status_code, "content_type": kind, "body": body}


def _origin(url: str) -> tuple[str, str]:
    """Return scheme and host, the port with it where it is not the scheme's own."""
    parts = urlsplit(url)
    host, port = (parts.hostname or "").lower(), parts.port
    if parts.username is not None or not host or parts.scheme not in _PORTS:
        raise ConfigError(f"{url[:80]!r} is not an http or https address with a host and no user")
    return parts.scheme, host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
