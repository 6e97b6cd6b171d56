"""The client of ``opa-python-client`` with what this project needs of it: our trust, one pool, raw answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from meshflow.errors import ConfigError
from meshflow.policy.opa.faults import fault, fault_of, read_object
from meshflow.policy.opa.messages import first_problem
from meshflow.policy.opa.server import OpaServer

MAX_ANSWER_BYTES = 4 << 20


class Client(Protocol):
    """What the engine asks of a server."""

    async def __aenter__(self) -> Client: ...

    async def __aexit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...

    async def decide(self, path: str, body: bytes, *, provenance: bool) -> dict[str, Any]: ...

    async def healthy(self) -> None: ...

    async def put_policy(self, name: str, text: str) -> None: ...

    async def put_data(self, path: str, document: Mapping[str, Any]) -> None: ...

    async def policies(self) -> dict[str, str]: ...

    async def delete(self, kind: str, name: str) -> None: ...


def new_client(server: OpaServer, base: Path) -> Client:
    """Return a client, not yet open; for one event loop. ConfigError says what to install or to set."""
    try:
        import aiohttp
        from opa_client.errors import RegoParseError  # type: ignore[import-untyped]
        from opa_client.opa_async import AsyncOpaClient  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError('the engine opa needs pip install "meshflow[opa]"', path="plugins.rego.engine") from None

    host, port, secure = server.address
    trust, token = server.trust(base), server.read_token(base)

    class DecisionClient(AsyncOpaClient):  # type: ignore[misc]
        """Never retries, never follows a redirect, takes no proxy from the environment, and reads no endless answer."""

        async def _init_session(self) -> None:
            # The library knows no CA file: its own context would trust every certificate that the system trusts.
            self._connector = aiohttp.TCPConnector(ssl=trust if trust is not None else False, limit=server.connections)
            self._session = aiohttp.ClientSession(
                headers=self.headers, connector=self._connector, timeout=aiohttp.ClientTimeout(total=self.timeout)
            )

        def _request(self, method: str, url: str, **more: Any) -> Any:
            # A redirect could lead the step's data to a machine that no setting names.
            return super()._request(method, url, allow_redirects=False, **more)

        async def decide(self, path: str, body: bytes, *, provenance: bool) -> dict[str, Any]:
            query = "strict-builtin-errors=true" + ("&provenance=true" if provenance else "")
            return await self._ask("POST", f"{self.root_url}/data/{path}?{query}", data=body, headers=_JSON)

        async def healthy(self) -> None:
            await self._ask("GET", f"{self.schema}{self.host}:{self.port}/health")

        async def put_policy(self, name: str, text: str) -> None:
            try:
                await self.update_policy_from_string(text, quote(name), rego_compat=False)
            except RegoParseError as error:
                places = [problem for problem in error.errors if isinstance(problem, dict)]
                told = "; ".join(str(one.get("message", "")) for one in places) or str(error.message)
                raise ConfigError(f"the OPA server refuses {name}: {first_problem(told)[1]}", path=_URL) from None
            except Exception as error:
                raise fault_of(error) from None

        async def put_data(self, path: str, document: Mapping[str, Any]) -> None:
            try:
                await self.update_or_create_data(dict(document), path)
            except RegoParseError as error:
                raise ConfigError(f"the OPA server refuses the data: {error.message}", path=_URL) from None
            except Exception as error:
                raise fault_of(error) from None

        async def policies(self) -> dict[str, str]:
            answer = await self._ask("GET", f"{self.root_url}/policies")
            listed = answer.get("result")
            if not isinstance(listed, list):
                raise fault("server_nonsense", "the OPA server lists no policies")
            return {str(one.get("id")): str(one.get("raw", "")) for one in listed if isinstance(one, dict)}

        async def delete(self, kind: str, name: str) -> None:
            try:
                async with self._request("DELETE", f"{self.root_url}/{kind}/{quote(name)}"):
                    return
            except Exception as error:
                raise fault_of(error) from None

        async def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
            try:
                async with self._request(method, url, **more) as response:
                    body = await response.content.read(MAX_ANSWER_BYTES)
                    while len(body) < MAX_ANSWER_BYTES and not response.content.at_eof():
                        body += await response.content.read(MAX_ANSWER_BYTES)
                    if len(body) >= MAX_ANSWER_BYTES:
                        raise fault("server_nonsense", "the OPA server's answer has no end")
                    return read_object(response.status, body)
            except Exception as error:
                raise fault_of(error) from None

    client: Client = DecisionClient(
        host=host, port=port, ssl=secure, token=token, retries=0, timeout=server.timeout_ms / 1_000
    )
    return client


_JSON = {"Content-Type": "application/json"}
_URL = "plugins.rego.server.url"
