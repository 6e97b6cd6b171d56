"""The example that ``meshflow init`` writes is valid, commented or not."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from meshflow.config import (
    check_sections,
    commented_example,
    config_schema,
    parse_config,
    plugin_settings,
    unknown_plugin_settings,
)
from meshflow.config.example import uncommented_example
from meshflow.config.models import Document
from meshflow.plugin import Plugin
from meshflow.registry.manifest import BESIDE


@pytest.fixture(scope="module")
def plugins() -> dict[str, type[Plugin[Any]]]:
    points = entry_points(group="meshflow.plugins")
    absent = [point.module for point in points if find_spec(point.module) is None]
    if absent:
        pytest.skip(f"not in this checkout: {absent}")
    return {point.name: point.load() for point in points}


@pytest.mark.parametrize("text", [commented_example(), uncommented_example()], ids=["as it is", "uncommented"])
def test_the_example_is_valid_with_the_installed_plugins(text: str, plugins: dict[str, type[Plugin[Any]]]) -> None:
    config = parse_config(text, base=Path(), environ={})
    unknown_plugin_settings(config, plugins)
    check_sections(config, plugins)
    for tenant in (None, *config.tenants):
        for name, plugin_type in plugins.items():
            if name in BESIDE:  # serves nothing unless it is named, and then needs settings
                continue
            assert isinstance(plugin_settings(config, name, plugin_type, tenant=tenant), plugin_type.settings_type)


def test_the_schema_accepts_the_example_and_refuses_its_typos(plugins: dict[str, type[Plugin[Any]]]) -> None:
    validator = jsonschema_rs.Draft202012Validator(config_schema(plugins))
    text = uncommented_example()
    for error in validator.iter_errors(yaml.safe_load(text)):
        raise AssertionError(f"{error.instance_path}: {error.message}")
    for right, wrong in (("risk:", "rsik:"), ("jwks_file:", "jwk_file:"), ("expires_s", "expire_s"), ("caps:", "cap:")):
        assert right in text
        assert not validator.is_valid(yaml.safe_load(text.replace(right, wrong)))


def test_as_it_is_the_example_sets_nothing_but_its_version() -> None:
    assert yaml.safe_load(commented_example()) == {"version": 1}


def test_every_top_level_key_is_shown() -> None:
    shown = set(yaml.safe_load(uncommented_example()))
    assert shown == set(Document.model_fields)


def test_no_line_is_too_long_to_read() -> None:
    assert max(map(len, commented_example().splitlines())) <= 120
