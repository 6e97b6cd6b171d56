"""The root wheel, as someone gets it who has never seen the checkout."""

from __future__ import annotations

import json
import tarfile
import tomllib
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Venv, Wheel

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
GROUPS = ("meshflow.plugins", "meshflow.profiles")
HEAVY = {"fastapi", "presidio_analyzer", "presidio_anonymizer", "regorus", "spacy", "starlette", "typer"}

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]


def project(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize("group", GROUPS)
def test_wheel_declares_what_the_plugin_folders_declare(built_wheel: Wheel, group: str) -> None:
    declared: dict[str, str] = {}
    for folder in FOLDERS:
        points = project(folder).get("entry-points", {}).get(group, {})
        assert not declared.keys() & points.keys(), f"{folder.name} names an entry point that another folder has"
        declared |= points
    assert built_wheel.entry_points(group) == declared


def test_every_requirement_of_a_plugin_is_one_of_the_root() -> None:
    ours = set(project(ROOT)["dependencies"])
    for folder in FOLDERS:
        theirs = set(project(folder)["dependencies"])
        assert "meshflow>=2,<3" in theirs
        assert theirs - {"meshflow>=2,<3"} <= ours, f"{folder.name} asks for what the root does not"


def test_plugin_folders_have_the_version_of_the_root(built_wheel: Wheel) -> None:
    version = HeaderParser().parsestr(built_wheel.read("METADATA"))["Version"]
    assert {folder.name: project(folder)["version"] for folder in FOLDERS} == {
        folder.name: version for folder in FOLDERS
    }


def test_version_keeps_clear_of_the_unrelated_distribution_of_that_name(clean_venv: Venv) -> None:
    printed = clean_venv.python(
        "-c", "import importlib.metadata as m, meshflow; print(m.version('meshflow'), meshflow.__version__)"
    )
    assert printed.split() == ["2.0.0", "2.0.0"]


def test_wheel_holds_every_source_file_and_type_marker(built_wheel: Wheel) -> None:
    sources = [ROOT / "meshflow", *(source for folder in FOLDERS for source in (folder / "src").glob("meshflow_*"))]
    expected = {
        path.relative_to(source.parent).as_posix()
        for source in sources
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert expected <= built_wheel.files()
    assert {f"{source.name}/py.typed" for source in sources} <= built_wheel.files()


def test_wheel_holds_the_policies_and_the_licence(built_wheel: Wheel) -> None:
    policies = {
        f"meshflow/_policies/{path.relative_to(ROOT / 'policies').as_posix()}"
        for path in (ROOT / "policies").rglob("*.rego")
    }
    assert policies
    assert policies <= built_wheel.files()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built_wheel.files())


def test_wheel_holds_neither_tests_nor_caches(built_wheel: Wheel) -> None:
    top = {name.split("/")[0] for name in built_wheel.files()}
    packages = {"meshflow", *(folder.name.replace("-", "_") for folder in FOLDERS)}
    assert {name for name in top if not name.endswith(".dist-info")} == packages
    assert not [name for name in built_wheel.files() if "__pycache__" in name or "/tests/" in name]


def test_sdist_holds_what_the_targets_of_the_makefile_need(built_sdist: Path) -> None:
    with tarfile.open(built_sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints/run.txt", "constraints/dev.txt", "LICENSE", "pyproject.toml"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "policies").rglob("*.rego")} <= names


def test_command_prints_help(clean_venv: Venv) -> None:
    printed = clean_venv.python(clean_venv.bin / "meshflow", "--help")
    assert "Usage" in printed


def test_every_entry_point_loads(clean_venv: Venv) -> None:
    code = f"""
import importlib.metadata, json
points = [point for group in {GROUPS!r} for point in importlib.metadata.entry_points(group=group)]
print(json.dumps({{point.name: point.load().__name__ for point in points}}))
"""
    loaded = json.loads(clean_venv.python("-c", code))
    assert loaded.keys() == {name for group in GROUPS for name in project(ROOT)["entry-points"].get(group, {})}


def test_importing_meshflow_stays_light(clean_venv: Venv) -> None:
    code = "import json, sys, meshflow; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = set(json.loads(clean_venv.python("-c", code)))
    assert "meshflow" in loaded
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("meshflow_")]


def test_installed_distributions_agree_with_their_requirements(clean_venv: Venv) -> None:
    assert "No broken requirements found" in clean_venv.python("-m", "pip", "check")


def test_a_plugin_installed_alone_over_the_bundle_still_loads(venv_with: Callable[..., Venv]) -> None:
    folder = ROOT / "plugins" / "meshflow-sla"
    code = """
import importlib.metadata
points = importlib.metadata.entry_points(group="meshflow.plugins", name="sla")
print({point.load().__name__ for point in points})
"""
    assert venv_with(folder).python("-c", code).strip() == "{'SlaPlugin'}"
