"""Witnesses that run in threads, for tests that need some."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshflow.ledger.anchors import WitnessAnchor
from meshflow.ledger.anchors.witness import WitnessAnchorSettings
from meshflow.ledger.format.cosignatures import ED25519, ML_DSA_44
from meshflow.ledger.witness import (
    Witness,
    WitnessServer,
    WitnessState,
    make_witness_keys,
    read_witness_keys,
    trusted_logs,
)


@contextmanager
def witness(folder: Path, name: str, logs: list[str], port: int = 0) -> Iterator[WitnessServer]:
    """Run a witness that keeps its key and what it has seen in a folder."""
    key, state = folder / f"{name}.key", folder / f"{name}.state"
    if not key.exists():
        make_witness_keys(key, f"{name}.example/w", [ED25519, ML_DSA_44])
    trusted = trusted_logs(logs)
    server = WitnessServer(("127.0.0.1", port), Witness(WitnessState(state), read_witness_keys(key), trusted))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.witness.state.close()


def keys_of(server: WitnessServer) -> list[str]:
    return [str(key.verifier) for key in server.witness.keys]


def anchor_at(server: WitnessServer, **more: object) -> WitnessAnchor:
    values = {"url": server.url, "keys": tuple(keys_of(server)), "timeout_s": 5} | more
    return WitnessAnchor(WitnessAnchorSettings.model_validate(values))
