"""Anchors by name: those shipped, and one that a package brings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from meshflow.errors import ConfigError, PluginError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.anchors import FileAnchor, GitAnchor, S3Anchor, WitnessAnchor, known_anchors, make_anchor

PACKAGE = """
from pathlib import Path
from pydantic import Field
from meshflow.ledger.anchors import Anchor, Prove, Receipt, follows
from meshflow.plugin import Settings


class ShelfSettings(Settings):
    shelf: str = Field(min_length=1, description="folder that checkpoints are put into")
    wax: bool = False


class ShelfAnchor(Anchor):
    settings_type = ShelfSettings

    def __init__(self, folder):
        self.folder, self.name = folder, f"shelf {folder}"

    @classmethod
    def from_settings(cls, settings, base):
        return cls(base / settings.shelf)

    async def publish(self, checkpoint, prove=None):
        self.folder.mkdir(exist_ok=True)
        if follows(checkpoint, await self.latest(), self.name):
            (self.folder / "newest").write_text(checkpoint)
        return Receipt(self.name, token="stamped")

    async def latest(self, origin=None):
        newest = self.folder / "newest"
        return newest.read_text() if newest.exists() else None


class NoAnchor:
    pass


class Unset(ShelfAnchor):
    settings_type = dict
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution where pip would: a module, and metadata with its entry points."""

    def done(name: str, entries: dict[str, str], source: str = PACKAGE) -> None:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-0.1.dist-info"
        info.mkdir(parents=True)
        (site / f"{name.replace('-', '_')}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        listed = "".join(f"{entry} = {target}\n" for entry, target in entries.items())
        (info / "entry_points.txt").write_text(f"[meshflow.anchors]\n{listed}")
        monkeypatch.syspath_prepend(str(site))

    return done


async def test_an_installed_package_brings_an_anchor_of_its_own(install: Install, tmp_path: Path) -> None:
    install("acme-shelf", {"shelf": "acme_shelf:ShelfAnchor"})
    before = set(sys.modules)
    assert known_anchors()["shelf"] == [("acme_shelf:ShelfAnchor", "acme-shelf")]
    assert "acme_shelf" not in set(sys.modules) - before
    anchor = make_anchor("shelf", {"shelf": "kept"}, tmp_path)
    async with ReplayLedger(tmp_path / "runs.db") as ledger:
        await ledger.write({"run_id": "r", "node_id": "n"})
        (receipt,) = await ledger.anchor(anchor)
        assert receipt == (f"shelf {tmp_path / 'kept'}", "", "stamped")
        assert await anchor.kept(5) == [await ledger.checkpoint()]
        await anchor.check()
        assert (await ledger.verify_ledger(anchors=[anchor]))["held_size"] == 1
    del sys.modules["acme_shelf"]


def test_the_shipped_ones_are_there(tmp_path: Path) -> None:
    assert set(known_anchors([])) == {"file", "git", "s3", "witness"}
    key = "witness.example/w1+fb0a1b6f+BDGUM8HNRxtqFJeFzVqJ2AGDUtrUCFTAw/4pTcGMTXvl"
    made = (
        make_anchor("file", {"path": "kept"}, tmp_path),
        make_anchor("git", {"repository": "work"}, tmp_path),
        make_anchor("s3", {"bucket": "evidence", "retain_days": 9}, tmp_path),
    )
    assert [type(one) for one in made] == [FileAnchor, GitAnchor, S3Anchor]
    assert made[0].name == f"file {tmp_path / 'kept'}"
    with pytest.raises(ConfigError, match="the id of key"):
        make_anchor("witness", {"url": "http://127.0.0.1", "keys": [key]}, tmp_path)
    assert WitnessAnchor.settings_type.model_fields


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fil", {}, "no anchor 'fil' (did you mean file?)"),
        ("file", {}, "anchors[2].path: is required"),
        ("file", {"path": "x", "pth": 1}, "anchors[2].pth: unknown setting (did you mean path?)"),
        ("s3", {"bucket": "evidence", "retain_days": 0}, "anchors[2].retain_days: "),
        ("witness", {"url": "http://x", "keys": ["k"]}, "anchors[2].keys: the key of 'k' is not one that cosigns"),
        ("witness", {"url": "http://x", "keys": []}, "anchors[2].keys: "),
    ],
)
def test_a_wrong_name_or_setting_says_what_to_change(
    name: str, settings: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_anchor(name, settings, tmp_path, path="anchors[2]")
    assert said in str(caught.value)


def test_a_package_cannot_take_a_name_that_is_taken(install: Install, tmp_path: Path) -> None:
    install("acme-evil", {"file": "acme_evil:ShelfAnchor", "shelf": "acme_evil:ShelfAnchor"})
    install("acme-shelf", {"shelf": "acme_shelf:ShelfAnchor"})
    with pytest.raises(ConfigError, match=r"claimed by \['meshflow', 'acme-evil'\]"):
        make_anchor("file", {"path": "x"}, tmp_path)
    with pytest.raises(ConfigError, match="claimed by"):
        make_anchor("shelf", {"shelf": "x"}, tmp_path)
    assert "acme_evil" not in sys.modules


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("acme_odd:NoAnchor", "lacks the calls"),
        ("acme_odd:Unset", "lacks a settings_type"),
        ("acme_odd:Missing", "importing acme_odd:Missing failed"),
        ("no_such_module:X", "importing no_such_module:X failed"),
    ],
)
def test_a_package_that_brings_no_anchor_is_named(install: Install, tmp_path: Path, target: str, said: str) -> None:
    install("acme-odd", {"odd": target})
    with pytest.raises(PluginError, match=said) as caught:
        make_anchor("odd", {}, tmp_path)
    assert "acme-odd" in str(caught.value)
    sys.modules.pop("acme_odd", None)


def test_the_same_distribution_twice_on_the_path_is_one(install: Install) -> None:
    install("acme-shelf", {"shelf": "acme_shelf:ShelfAnchor"})
    twice: list[Distribution] = [*distributions(), *distributions()]
    assert len(known_anchors(twice)["shelf"]) == 1
