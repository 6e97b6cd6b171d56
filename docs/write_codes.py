"""Write docs/reference/codes.md from all CODES (kernel, mesh, default plugins): python docs/write_codes.py"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from meshflow.registry.manifest import FIRST_PARTY_DISTRIBUTIONS
from meshflow.stages import STAGES

PAGE = Path(__file__).parent / "reference" / "codes.md"
HEAD = """\
# Denial codes

Every step that does not complete says why with a code, `<stage>.<cause>`, which is stable: write rules and alerts
against codes, not against reasons, whose wording may change. A code is in the outcome, in the record, and in the
result of the stage that gave it.

This page is written by `python docs/write_codes.py` from the `CODES` of the kernel and of each default plugin. A
plugin of your own lists its codes in the same way. A code begins with the name of its stage, whoever gives it.
"""
OTHER = {
    "approval": "Given when a step that waited for a person is handed in again.",
    "step": "Given when a step ends for a reason outside of every stage.",
}


def codes() -> Iterator[tuple[str, str, str]]:
    """Yield each code, who gives it and what it means."""
    for code, meaning in import_module("meshflow.kernel.codes").CODES.items():
        yield code, "kernel", meaning
    for code, meaning in import_module("meshflow.mesh.codes").CODES.items():
        yield code, "mesh", meaning
    for distribution in sorted(FIRST_PARTY_DISTRIBUTIONS - {"meshflow"}):
        for code, meaning in import_module(distribution.replace("-", "_")).CODES.items():
            yield code, distribution, meaning


def row(code: str, giver: str, meaning: str) -> str:
    """Return a code's row of the table, the meaning as a sentence."""
    meaning = meaning[:1].upper() + meaning[1:].rstrip(".") + "."
    return f"| `{code}` | {giver} | {meaning.replace('|', chr(92) + '|')} |"


def page() -> str:
    """Return the whole page."""
    rows = sorted(codes(), key=lambda entry: (entry[0], entry[1] != "kernel", entry[1]))
    parts = [HEAD]
    for area in (*(stage.name for stage in STAGES), *OTHER):
        own = [entry for entry in rows if entry[0].partition(".")[0] == area]
        if not own:
            continue
        about = f"{OTHER[area]}\n\n" if area in OTHER else ""
        table = "\n".join(row(*entry) for entry in own)
        parts.append(f"## {area}\n\n{about}| code | given by | meaning |\n|---|---|---|\n{table}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
