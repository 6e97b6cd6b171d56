"""Every shipped anchor that needs no server runs the kit; the one in S3 does so beside its server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshflow.ledger.anchors import Anchor, FileAnchor, GitAnchor, Receipt, make_anchor
from meshflow.ledger.witness import (
    Witness,
    WitnessServer,
    WitnessState,
    make_witness_keys,
    read_witness_keys,
    trusted_logs,
)
from meshflow.testing.anchor import AnchorConformance, Log


class TestFileAnchor(AnchorConformance):
    def make(self, folder: Path, log: Log) -> Anchor:
        return FileAnchor(folder / "kept")


class TestGitAnchor(AnchorConformance):
    def make(self, folder: Path, log: Log) -> Anchor:
        if not (folder / "work").exists():
            subprocess.run(["git", "init", "-q", "--bare", str(folder / "remote.git")], check=True)
            subprocess.run(["git", "init", "-q", "-b", "main", str(folder / "work")], check=True)
            remote = ["remote", "add", "origin", str(folder / "remote.git")]
            subprocess.run(["git", "-C", str(folder / "work"), *remote], check=True)
        return GitAnchor(folder / "work", remote="origin")


class TestWitnessAnchor(AnchorConformance):
    keeps_all = False

    @pytest.fixture(autouse=True)
    def _servers(self) -> object:
        import threading

        self.servers: dict[Path, WitnessServer] = {}

        def start(folder: Path, log: Log) -> WitnessServer:
            make_witness_keys(folder / "key", "w.example/1")
            trusted = trusted_logs([str(log.signer.verifier)])
            witness = Witness(WitnessState(folder / "state"), read_witness_keys(folder / "key"), trusted)
            server = WitnessServer(("127.0.0.1", 0), witness)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            return server

        self.start = start
        yield
        for server in self.servers.values():
            server.shutdown()
            server.server_close()
            server.witness.state.close()

    def make(self, folder: Path, log: Log) -> Anchor:
        if folder not in self.servers:
            self.servers[folder] = self.start(folder, log)
        server = self.servers[folder]
        keys = [str(key.verifier) for key in server.witness.keys]
        return make_anchor("witness", {"url": server.url, "keys": keys}, folder)


class Forgetful(FileAnchor):
    """An anchor that takes everything and checks nothing."""

    async def publish(self, checkpoint: str, prove: object = None) -> Receipt:
        self.path.write_text(f'{{"checkpoint": {checkpoint!r}}}'.replace("'", '"'))
        return Receipt("")


@pytest.mark.parametrize(
    "name",
    ["test_what_is_published_is_kept_for_whoever_comes_later", "test_another_log_does_not_mix_with_it"],
)
def test_the_kit_finds_an_anchor_that_checks_nothing(name: str, tmp_path: Path) -> None:
    class Kit(AnchorConformance):
        def make(self, folder: Path, log: Log) -> Anchor:
            return Forgetful(folder / "kept")

    test: Callable[..., None] = getattr(Kit(), name)
    with pytest.raises(AssertionError):
        test(tmp_path, Log())


def test_the_kit_finds_an_anchor_that_lets_contradictions_pass(tmp_path: Path) -> None:
    class Kit(AnchorConformance):
        def make(self, folder: Path, log: Log) -> Anchor:
            return Forgetful(folder / "kept")

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        Kit().test_what_does_not_follow_is_refused_and_nothing_is_lost(tmp_path, Log(), 5, "")
