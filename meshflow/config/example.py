"""The commented meshflow.yaml that ``meshflow init`` writes."""

from __future__ import annotations

import re
from importlib.resources import files

# In the example "## " opens a line of prose and "# " a setting that is commented out.
_SETTING = re.compile(r"^# ", re.MULTILINE)
_PROSE = re.compile(r"^##( |$)")


def commented_example() -> str:
    """Return the example: valid as it is, and with any of its settings uncommented."""
    return files("meshflow.config").joinpath("example.yaml").read_text(encoding="utf-8")


def uncommented_example() -> str:
    """Return the example with every setting in force; for tests and documentation."""
    lines = commented_example().splitlines(keepends=True)
    return "".join(line if _PROSE.match(line) else _SETTING.sub("", line) for line in lines)
