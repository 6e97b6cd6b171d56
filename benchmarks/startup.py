"""What starting costs: the import and the command line, each in a fresh interpreter, and what they import."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from benchmarks.harness import Row, Work, at_most, beside, in_turn

HEAVY = (
    "presidio_analyzer", "presidio_anonymizer", "spacy", "numpy", "fastapi", "starlette", "flask", "django", "aiohttp",
    "uvicorn", "tornado",
)  # fmt: skip
_BARE = "pass"
_IMPORT = "import meshflow"
_RUNTIME = "from meshflow import StepRuntime"
_HELP = "import sys; sys.argv = ['meshflow', '--help']; from meshflow.cli import main; main()"
_LISTING = f"""
import atexit, sys
atexit.register(lambda: print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr))
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def loaded_by(code: str) -> list[str]:
    """Return the heavy modules that code imports."""
    lines = _run(_LISTING + code).stderr.splitlines()
    return next(line for line in lines if line.startswith("LOADED")).split()[1:]


async def rows(quick: bool) -> list[Row]:
    """Measure fresh interpreters."""
    rounds = 1 if quick else 9

    def work(code: str) -> Work:
        async def run() -> None:
            done = await asyncio.to_thread(_run, code)
            if done.returncode:
                raise RuntimeError(f"{code!r} failed: {done.stderr[-500:]}")

        return run

    codes = {"bare": _BARE, "import": _IMPORT, "runtime": _RUNTIME, "help": _HELP}
    spent = await in_turn(rounds, {name: work(code) for name, code in codes.items()}, 1)
    bare = spent["bare"].wall
    heavy = sorted({*loaded_by(_IMPORT), *loaded_by(_HELP)})
    return [
        at_most("import meshflow, beyond a bare interpreter", spent["import"].wall - bare, "s", 0.15),
        beside("import of StepRuntime, beyond it", spent["runtime"].wall - bare, "s", bare, "python -c pass"),
        at_most("meshflow --help, all of it", spent["help"].wall, "s", 0.4),
        Row(
            f"heavy modules that either imports{': ' if heavy else ''}{', '.join(heavy)}",
            len(heavy), "modules", target="<= 0", met=not heavy,
        ),
    ]  # fmt: skip
