"""The example packages are tested from their folders here; tests/packaging installs them."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for project in sorted(HERE.glob("*/pyproject.toml")):
    source = project.parent / "src"
    sys.path.append(str(source if source.is_dir() else project.parent))
