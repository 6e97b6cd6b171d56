"""The reference is complete: every setting, every hook and every public name has its place, and none is stale."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import meshflow
from meshflow.ledger.format.entry import KINDS
from meshflow.stages import LIFECYCLE_HOOKS, STAGES

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def settings() -> Any:
    """The script that writes the tables of settings."""
    spec = spec_from_file_location("write_settings", ROOT / "docs" / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def headings(page: str) -> list[str]:
    return re.findall(r"^#{2,4} `?([^`\n]+?)`?$", (REFERENCE / page).read_text("utf-8"), re.MULTILINE)


def test_tables_of_settings_are_current(settings: Any) -> None:
    written = settings.PAGE.read_text("utf-8")
    assert settings.page(written) == written, "run python docs/settings.py"


def test_every_section_and_default_plugin_has_a_table(settings: Any) -> None:
    text = settings.PAGE.read_text("utf-8")
    shared = {"plugin risk", "plugin taint"}  # they have the settings of the plugin tools
    missing = [name for name in settings.tables() if settings.BEGIN.format(name) not in text and name not in shared]
    assert not missing


def test_every_setting_says_what_it_means(settings: Any) -> None:
    rows = [row for table in settings.tables().values() for row in table.splitlines()]
    assert not [row for row in rows if row.endswith("|  |")]


def test_every_hook_has_a_heading() -> None:
    found = headings("stages.md")
    missing = [hook for hook in (*(stage.hook for stage in STAGES), *LIFECYCLE_HOOKS) if hook not in found]
    assert not missing


def test_every_public_name_has_a_heading() -> None:
    found = headings("python-api.md")
    assert not sorted(set(meshflow.__all__) - set(found))


def test_every_kind_of_entry_is_told_of() -> None:
    page = (REFERENCE / "ledger-records.md").read_text("utf-8")
    assert {kind for kind in KINDS if f"| `{kind}` |" not in page} == set()
