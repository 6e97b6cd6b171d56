"""The engine that asks an OPA server; every way in which that can fail is one denial with its cause."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshflow.errors import ConfigError, ContractError
from meshflow.policy.answer import parse_answer
from meshflow.policy.bundle import Bundle
from meshflow.policy.compile import inspect
from meshflow.policy.engine import MAX_INPUT_BYTES, PolicyAnswer, PolicyFailure
from meshflow.policy.front import BundleEngine
from meshflow.policy.opa.client import Client, new_client
from meshflow.policy.opa.faults import ServerFault, fault
from meshflow.policy.opa.namespace import Placed, place_in_namespace, question_of
from meshflow.policy.opa.owner import LoopOwner
from meshflow.policy.opa.server import OpaServer
from meshflow.turns import turn


class OpaEngine(BundleEngine):
    """Has one bundle evaluated by an OPA server.

    A pushed bundle lives there under a name made of its digest, and each question names it. A server that has lost it,
    by a restart for instance, is given it once more before the step is denied.
    """

    name = "opa"
    distribution = "opa-python-client"  # a server does not say its own version to everyone

    def __init__(
        self, bundle: Bundle, server: OpaServer, *, base: Path | None = None, max_input_bytes: int = MAX_INPUT_BYTES
    ) -> None:
        super().__init__(bundle, max_input_bytes)
        self._server = server
        self._base = base or Path()
        self._placed: Placed | None = None
        self._owner: LoopOwner | None = None
        self._client: Client | None = None
        self._process = 0

    async def start(self) -> None:
        """Check the bundle and the server's health, and see to it that the server has the bundle.

        ConfigError says what is wrong, with the setting to change.
        """
        async with turn(self.starting):
            if self._analysis is None or self._process != os.getpid():
                await self._start()

    async def _start(self) -> None:
        analysis = inspect(self._bundle, "opa")
        self._placed = place_in_namespace(self._bundle) if self._server.bundle == "push" else None
        client = new_client(self._server, self._base)
        owner = self._owner = LoopOwner("meshflow-opa")
        self._process = os.getpid()
        try:
            self._client = await owner.call(_opened(client))
            await owner.call(self._ready(self._client))
        except ServerFault as error:
            await self.close()
            raise ConfigError(
                f"{error.failure.message}; {error.failure.cause}", path="plugins.rego.server.url"
            ) from None
        except BaseException:
            await self.close()
            raise
        self._analysis = analysis

    async def close(self) -> None:
        """Close the connections; with ``exclusive`` take the bundle away from the server first."""
        owner, client, self._analysis = self._owner, self._client, None
        self._owner = self._client = None
        if owner is None or self._process != os.getpid():
            return
        if client is not None:
            await owner.call(self._left(client))
        await owner.stop()

    async def ask(self, entry_point: str, encoded: bytes) -> PolicyAnswer | PolicyFailure:
        """Ask the server; nothing that it does raises."""
        if self._process != os.getpid():  # a thread does not survive a fork
            await self.start()
        owner, client = self._owner, self._client
        if owner is None or client is None:
            raise ContractError("the policy engine was closed while a step was on its way to it")
        return await owner.call(self._ask(client, entry_point, b'{"input":' + encoded + b"}"))

    # What follows runs on the owner's loop.

    async def _ready(self, client: Client) -> None:
        await client.healthy()
        if self._placed is not None:
            await self._push(client, self._placed)
        elif not await self._reported(client):
            raise fault("server_bundle", f"no bundle of the OPA server has the revision {self.bundle_digest}")

    async def _ask(self, client: Client, entry_point: str, body: bytes) -> PolicyAnswer | PolicyFailure:
        try:
            if self._placed is None:
                return await self._ask_checked(client, entry_point, body)
            path = question_of(entry_point, self.bundle_digest)
            answer = await client.decide(path, body, provenance=False)
            if "result" not in answer and not await self._holds(client, self._placed):
                await self._push(client, self._placed)
                answer = await client.decide(path, body, provenance=False)
        except ServerFault as error:
            return error.failure
        except ConfigError:
            return PolicyFailure("server_bundle", "the OPA server refuses the bundle")
        return _answer(entry_point, answer)

    async def _ask_checked(self, client: Client, entry_point: str, body: bytes) -> PolicyAnswer | PolicyFailure:
        path = entry_point.removeprefix("data.").replace(".", "/")
        answer = await client.decide(path, body, provenance=True)
        if self.bundle_digest not in _revisions(answer):
            return PolicyFailure("server_bundle", "the OPA server answered by another bundle than this runtime's")
        return _answer(entry_point, answer)

    async def _reported(self, client: Client) -> bool:
        answer = await client.decide("system/bundles", b"{}", provenance=True)
        return self.bundle_digest in _revisions(answer)

    async def _holds(self, client: Client, placed: Placed) -> bool:
        there = await client.policies()
        return all(there.get(name) == text for name, text in placed.modules.items())

    async def _push(self, client: Client, placed: Placed) -> None:
        """Put data, modules and seal there, and read them back."""
        await client.put_data(placed.namespace, placed.data)
        for name, text in placed.modules.items():
            await client.put_policy(name, text)
        if not await self._holds(client, placed):
            raise fault("server_bundle", "the OPA server does not keep the bundle that it was given")

    async def _left(self, client: Client) -> None:
        try:
            if self._server.exclusive and self._placed is not None:
                for name in reversed(self._placed.modules):
                    await client.delete("policies", name)
                await client.delete("data", self._placed.namespace)
        except ServerFault:
            pass  # it is gone with all that it held, or keeps what nobody asks for
        finally:
            await client.__aexit__(None, None, None)
            for _ in range(3):  # transports close in the loop's next turns
                await asyncio.sleep(0)


async def _opened(client: Client) -> Client:
    return await client.__aenter__()


def _answer(entry_point: str, answer: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
    if "result" not in answer:
        return PolicyFailure("undefined", f"{entry_point} is undefined for this step; give it a default")
    return parse_answer(answer["result"])


def _revisions(answer: Mapping[str, Any]) -> set[str]:
    provenance = answer.get("provenance")
    bundles = provenance.get("bundles") if isinstance(provenance, Mapping) else None
    if not isinstance(bundles, Mapping):
        return set()
    return {str(one.get("revision")) for one in bundles.values() if isinstance(one, Mapping)}
