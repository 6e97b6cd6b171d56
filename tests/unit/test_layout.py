"""The shape of the tree: small files, light package roots, and nothing that is true of one machine only."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
MODULES = sorted([*ROOT.glob("meshflow/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")])
PACKAGES = [path for path in MODULES if path.name == "__init__.py" and path.is_relative_to(ROOT / "meshflow")]
LAZY = {"__getattr__", "__dir__"}

# Joined from halves, so that this file does not match itself.
HOSTS = "|".join(
    (
        "py" r"pi\.org",
        "python" r"hosted\.org",
        "npm" r"js\.(?:org|com)",
        "crates" r"\.io",
        "conda" r"\.anaconda\.org",
        "deb" r"\.debian\.org",
    )
)
PATHS = "|".join(rf"(?<![\w.])/{name}/" for name in ("work", "root", "farm"))
NEEDLES = re.compile(f"{HOSTS}|{PATHS}", re.IGNORECASE)


@cache
def committed_texts() -> dict[str, str]:
    """Every committed file that is text, by path."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            texts[name] = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
    return texts


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_sql_names_what_it_binds_twice(path: Path) -> None:
    # Python 3.12 before 3.12.4 takes ?1 for a name, and warns of an error to come; :name works everywhere.
    assert not re.search(r"[=(<, ]\?[1-9]\b", path.read_text("utf-8")), "write :name and bind a mapping"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_is_short_enough_to_read(path: Path) -> None:
    count = len(path.read_text("utf-8").splitlines())
    assert count <= MAX_LINES, f"{relative(path)} has {count} lines; one idea a module, split it"


def test_committed_text_names_no_registry_host_and_no_path_of_one_machine() -> None:
    found = [
        f"{name}:{number}: {match.group()}"
        for name, text in committed_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := NEEDLES.search(line))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_package_root_only_hands_names_on(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert defined <= LAZY, f"{relative(path)} defines {sorted(defined - LAZY)}; move them into a module"


def test_no_package_marker_outside_the_packages() -> None:
    strays = [
        name
        for name in committed_texts()
        if Path(name).name == "__init__.py"
        and not name.startswith(("meshflow/", "tests/example_plugins/", "examples/"))
        and not re.match(r"plugins/[^/]+/src/", name)
    ]
    assert not strays, f"{strays}: tests are collected with importlib mode and need no package markers"


def test_each_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert len(numbers) == len(set(numbers)), numbers
    for page, number in zip(pages, numbers, strict=True):
        assert page.read_text("utf-8").startswith(f"# {number}. "), page.name
