"""The reference of workflow files has every key, kind and code, as they are."""

from __future__ import annotations

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from meshflow.workflow.codes import CODES
from meshflow.workflow.schema import workflow_schema
from meshflow.workflow.spec import NODE_TYPES

ROOT = Path(__file__).parents[2]
CAUSES = ("condition_error", "expression_error", "expression_too_costly", "output_unavailable", "too_large")


@pytest.fixture(scope="module")
def writer() -> Any:
    """The script that writes the tables."""
    spec = spec_from_file_location("workflow_keys", ROOT / "docs" / "workflow_keys.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_current(writer: Any) -> None:
    written = writer.PAGE.read_text("utf-8")
    assert writer.page(written) == written, "run python docs/workflow_keys.py"
    missing = [name for name in writer.tables() if writer.BEGIN.format(name) not in written]
    assert not missing


def test_the_published_schema_is_current(writer: Any) -> None:
    assert writer.SCHEMA.read_text("utf-8") == writer.schema(), "run python docs/workflow_keys.py"


def test_every_key_of_the_schema_is_in_a_table(writer: Any) -> None:
    text = writer.PAGE.read_text("utf-8")
    schema = workflow_schema()
    definitions = [schema, *(schema["$defs"][made.__name__] for made in NODE_TYPES.values())]
    keys = {key for one in definitions for key in one["properties"]} - {"kind"}
    assert [key for key in sorted(keys) if f"| `{key}` |" not in text] == []
    assert [kind for kind in NODE_TYPES if f"\n### {kind}\n" not in text] == []


def test_every_code_of_a_run_is_listed_and_used() -> None:
    used: set[str] = set()
    for path in (ROOT / "meshflow" / "workflow").rglob("*.py"):
        if path.name == "codes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                used |= set(re.findall(r"^workflow\.[a-z_]+$", node.value))
                if node.value in CAUSES:
                    used.add(f"workflow.{node.value}")
    assert used == set(CODES)
