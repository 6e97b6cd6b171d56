"""A built wheel and clean environments to install it in, shared by every packaging test of a session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600


def run(*command: object, cwd: Path) -> str:
    """Run a command away from the checkout and its settings; a failure shows what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment outside the checkout; `path.parent` is where its commands run."""

    path: Path

    @property
    def bin(self) -> Path:
        return self.path / ("Scripts" if os.name == "nt" else "bin")

    def python(self, *arguments: object) -> str:
        """Run the environment's interpreter and return what it printed."""
        return run(self.bin / "python", *arguments, cwd=self.path.parent)

    def install(self, *projects: object) -> None:
        """Install wheels or project folders without their dependencies, which the run lock already holds."""
        self.python("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *projects)

    def copy(self, folder: Path) -> Venv:
        """Return an environment like this one in an empty folder.

        Its console scripts still name the original's interpreter: use `python`.
        """
        path = folder / "venv"
        shutil.copytree(self.path, path, symlinks=True, copy_function=_link)
        return Venv(path)


def _link(source: str, target: str) -> None:
    """Hard-link where the file system can: pip replaces files and never writes into them."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Wheel:
    """A built wheel and what it declares."""

    path: Path

    def read(self, name: str) -> str:
        """Return a file of the wheel's `.dist-info` folder."""
        with zipfile.ZipFile(self.path) as archive:
            found = next(entry for entry in archive.namelist() if entry.endswith(f".dist-info/{name}"))
            return archive.read(found).decode()

    def files(self) -> set[str]:
        """Return the paths that RECORD lists."""
        return {line.split(",")[0] for line in self.read("RECORD").splitlines()}

    def entry_points(self, group: str) -> dict[str, str]:
        parser = ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(self.read("entry_points.txt"))
        return dict(parser[group]) if parser.has_section(group) else {}


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the root's source distribution and the wheel made from it, built once a session."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="session")
def built_sdist(distributions: Path) -> Path:
    return next(distributions.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def built_wheel(distributions: Path) -> Wheel:
    return Wheel(next(distributions.glob("*.whl")))


@pytest.fixture(scope="session")
def clean_venv(built_wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """An environment that holds the run lock and the built wheel and nothing else. Shared: change only a copy."""
    venv = Venv(tmp_path_factory.mktemp("clean") / "venv")
    run(sys.executable, "-m", "venv", venv.path, cwd=venv.path.parent)
    venv.python("-m", "pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "constraints" / "run.txt")
    venv.install(built_wheel.path)
    return venv


@pytest.fixture
def venv_with(clean_venv: Venv, tmp_path: Path) -> Callable[..., Venv]:
    """Return a function that copies the clean environment and installs project folders into the copy."""

    def make(*projects: Path) -> Venv:
        venv = clean_venv.copy(tmp_path)
        sources = [Path(shutil.copytree(project, tmp_path / "sources" / project.name)) for project in projects]
        venv.install(*sources)
        return venv

    return make
