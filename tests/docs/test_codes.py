"""Every denial code is listed: in its plugin's CODES, and in the reference."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from meshflow.stages import STAGE_BY_NAME

ROOT = Path(__file__).parents[2]
LOOKS_LIKE_A_CODE = re.compile(rf"(?:{'|'.join((*STAGE_BY_NAME, 'approval', 'step'))})\.[a-z](?:[a-z0-9_]*[a-z0-9])?")
FOLDERS = [ROOT / "meshflow" / "kernel", ROOT / "meshflow" / "mesh", *sorted(ROOT.glob("plugins/*/src"))]


@pytest.fixture(scope="module")
def writer() -> Any:
    """The script that writes the page."""
    spec = spec_from_file_location("write_codes", ROOT / "docs" / "write_codes.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def literals(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each text in the sources that has the form of a code, and where it stands. Docstrings do not."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and LOOKS_LIKE_A_CODE.fullmatch(node.value)
            ):
                yield node.value, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_reference_lists_every_code(writer: Any) -> None:
    lines = writer.PAGE.read_text("utf-8").splitlines()
    rows = [writer.row(*entry) for entry in writer.codes()]
    missing = [row for row in rows if row not in lines]
    stale = [line for line in lines if line.startswith("| `") and line not in rows]
    found = [f"missing: {row}" for row in missing] + [f"stale: {row}" for row in stale]
    assert not found, "run python docs/write_codes.py\n" + "\n".join(found)
    assert writer.page() == writer.PAGE.read_text("utf-8")


def test_codes_have_their_form_and_a_meaning(writer: Any) -> None:
    for code, giver, meaning in writer.codes():
        assert LOOKS_LIKE_A_CODE.fullmatch(code), f"{giver}: {code}"
        assert len(meaning.split()) > 2, f"{giver}: {code}: {meaning}"


def test_nobody_lists_a_code_twice_and_no_plugin_takes_a_code_of_the_kernel(writer: Any) -> None:
    givers: dict[str, list[str]] = {}
    for code, giver, _ in writer.codes():
        givers.setdefault(code, []).append(giver)
    twice = [code for code, names in givers.items() if max(Counter(names).values()) > 1]
    taken = [code for code, names in givers.items() if "kernel" in names and len(names) > 1]
    assert (twice, taken) == ([], [])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_every_code_in_the_sources_is_listed(writer: Any, folder: Path) -> None:
    listed = {code for code, _, _ in writer.codes()}
    missing = [f"{where}: {code}" for code, where in literals(folder) if code not in listed]
    assert not missing, "\n".join(missing)
