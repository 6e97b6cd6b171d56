"""A runtime on the default plugins alone, with its ledger in a folder of the test."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshflow import ReplayLedger, StepRuntime
from meshflow.record import RuntimeOutcome
from meshflow.step import NodeInput


class Desk:
    """A runtime with the defaults, and what it wrote."""

    def __init__(self, folder: Path, config: dict[str, Any], **given: Any) -> None:
        self.path = folder / "ledger.db"
        self.config = {**config, "ledger": {"path": str(self.path), **config.get("ledger", {})}}
        self.runtime = StepRuntime(config=self.config, **given)
        self.ran: list[Any] = []

    @property
    def ledger(self) -> ReplayLedger:
        """The ledger that the audit plugin holds."""
        ledger = self.runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
        assert isinstance(ledger, ReplayLedger)
        return ledger

    def step(self, value: Any = "hello", **fields: Any) -> NodeInput:
        """Return a step whose handler notes its input in ``ran`` and answers ``done``."""

        def note(given: Any) -> str:
            self.ran.append(given)
            return "done"

        return NodeInput(**{"node_id": "node", "run_id": "run-1", "input": value, "handler": note, **fields})

    async def run(self, value: Any = "hello", **fields: Any) -> RuntimeOutcome:
        """Take such a step through all stages."""
        return await self.runtime.run(self.step(value, **fields))


@pytest.fixture
async def open_desk(tmp_path: Path) -> AsyncIterator[Callable[..., Desk]]:
    """Return a maker of desks, closed when the test has ended."""
    desks: list[Desk] = []

    def make(config: dict[str, Any] | None = None, **given: Any) -> Desk:
        desks.append(Desk(tmp_path, config or {}, **given))
        return desks[-1]

    yield make
    for desk in desks:
        await desk.runtime.aclose()


class Issuer:
    """Signs tokens, and gives the settings that trust them."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, str]:
        """The public key."""
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": _b64(raw)}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the identity plugin."""
        return {"keys": [{"jwk": self.jwk}], "issuer": "https://issuer", "audience": "meshflow"}

    def token(self, token_id: str, tenant: str = "acme", **claims: Any) -> str:
        """Return a signed token that does not end in this century."""
        body = {"iss": "https://issuer", "aud": "meshflow", "sub": "ada", "exp": 4_000_000_000, "jti": token_id}
        parts = [_b64(json.dumps(part).encode()) for part in ({"alg": "EdDSA"}, {**body, "tenant": tenant, **claims})]
        signed = ".".join(parts)
        return f"{signed}.{_b64(self._key.sign(signed.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def kernel_log() -> Iterator[list[str]]:
    """Return the lines of the kernel's log, kept from the test's report, which may not be able to carry them."""
    lines: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return False

    log = logging.getLogger("meshflow.kernel")
    log.addFilter(take)
    yield lines
    log.removeFilter(take)


@pytest.fixture
def issuer() -> Issuer:
    """Return an issuer of its own for each test."""
    return Issuer()
