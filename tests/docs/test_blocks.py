"""Run the code blocks of README and docs, page by page, as a reader would who types them in order.

The info string of a fence says what becomes of it:

    python                  run; top-level await is allowed, and all blocks of a page share their names
    python file=acme.py     write the file; also yaml, toml, rego, json, text, markdown
    text output             what the block before it printed, word for word
    console run             run each line that begins with "$ "; it must succeed
    anything else           only shown
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    # The core API leaves names free; tests/integration/test_core_api.py supplies them.
    if page.exists() and "_build" not in page.parts and page.name != "core-api.md"
]

pytestmark = pytest.mark.docs


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the words behind it, its text and the line on which the text begins."""

    language: str
    options: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        return next((option.removeprefix("file=") for option in self.options if option.startswith("file=")), None)


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown text (CommonMark 4.5, backticks only)."""
    opening, info, begun = "", "", 0
    kept: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not opening and bare.startswith("```"):
            info = bare.lstrip("`")
            opening, begun, kept = bare[: len(bare) - len(info)], number + 1, []
        elif opening and bare == opening:
            language, *options = info.split() or [""]
            yield Block(language, tuple(options), textwrap.dedent("\n".join(kept)) + "\n", begun)
            opening = ""
        elif opening:
            kept.append(line)
    assert not opening, f"the fence of line {begun - 1} is never closed"


class Reader:
    """Types in the blocks of one page, in a folder of its own."""

    def __init__(self, page: Path, folder: Path, runner: asyncio.Runner) -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""
        self._runner = runner

    def take(self, block: Block) -> None:
        """Do what a block's info string says."""
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.language == "python":
            self._execute(block)
        elif block.language == "text" and "output" in block.options:
            assert self.printed.strip() == block.text.strip(), f"{self.page.name}:{block.line}: printed something else"
        elif block.language == "console" and "run" in block.options:
            for line in block.text.splitlines():
                if line.startswith("$ "):
                    self._command(line.removeprefix("$ "))

    def _execute(self, block: Block) -> None:
        source = "\n" * (block.line - 1) + block.text  # so that a traceback has the page's own line
        code = compile(source, str(self.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        out = StringIO()
        with redirect_stdout(out):
            if code.co_flags & inspect.CO_COROUTINE:
                self._runner.run(self._awaited(code))
            else:
                exec(code, self.names)
        self.printed = out.getvalue()

    async def _awaited(self, code: Any) -> None:
        await eval(code, self.names)

    def _command(self, line: str) -> None:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env={**environment, "PATH": path}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        self.printed = done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    text = page.read_text("utf-8")
    found = list(blocks(text))
    monkeypatch.chdir(tmp_path)
    if "LEDGER_URL" in text:  # the one thing that a reader of such a page has set up
        monkeypatch.setenv("LEDGER_URL", request.getfixturevalue("postgres_url"))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    try:
        with asyncio.Runner() as runner:
            reader = Reader(page, tmp_path, runner)
            for block in found:
                reader.take(block)
    finally:
        written = {path.stem for path in tmp_path.rglob("*.py")} | {path.parent.name for path in tmp_path.rglob("*.py")}
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in written:
                del sys.modules[name]


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial/first-steps.md"])
def test_blocks_can_be_pasted_into_a_session(name: str) -> None:
    """A session ends a statement of several lines at the first blank one, and begins no other before that."""
    for block in blocks((ROOT / name).read_text("utf-8")):
        if block.language == "python" and block.file is None:
            session = codeop.CommandCompiler()
            session.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            kept: list[str] = []
            for number, line in enumerate((*block.text.splitlines(), ""), block.line):
                kept.append(line)
                try:
                    whole = session("\n".join(kept), name) is not None
                except SyntaxError as error:
                    raise AssertionError(f"{name}:{number}: {error}") from None
                if whole:
                    kept.clear()
            assert not kept, f"{name}: the block of line {block.line} does not end"


def test_reader_finds_fences_options_and_lines() -> None:
    page = "# Title\n```python file=a.py\nx = 1\n```\n- item\n  ````text output\n  ```\n  y\n  ````\n"
    first, second = blocks(page)
    assert first == Block("python", ("file=a.py",), "x = 1\n", 3)
    assert (second.text, second.options, second.line) == ("```\ny\n", ("output",), 7)


def test_reader_finds_what_is_wrong(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        reader = Reader(Path("page.md"), tmp_path, runner)
        reader.take(Block("python", (), "import asyncio\nawait asyncio.sleep(0)\nprint('seen')\n", 1))
        reader.take(Block("text", ("output",), "seen\n", 5))
        with pytest.raises(AssertionError, match="printed something else"):
            reader.take(Block("text", ("output",), "unseen\n", 5))
        with pytest.raises(ZeroDivisionError):
            reader.take(Block("python", (), "1 / 0\n", 9))
        with pytest.raises(AssertionError, match="exit 3"):
            reader.take(Block("console", ("run",), "$ exit 3\n", 12))
