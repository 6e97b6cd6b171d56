"""The reference of profiles says what the shipped manifests say."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    spec = spec_from_file_location("write_profiles", ROOT / "docs" / "write_profiles.py")
    assert spec is not None
    assert spec.loader is not None
    writer = module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text("utf-8"), "run python docs/write_profiles.py"
