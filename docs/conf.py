"""How Sphinx builds the documentation: Markdown by MyST, warnings as errors, no network."""

from __future__ import annotations

import re
from pathlib import Path

project = "meshflow"
author = "The meshflow authors"
project_copyright = "The meshflow authors"
source = (Path(__file__).parents[1] / "meshflow/__init__.py").read_text()
release = re.findall(r'^__version__ = "(.+)"', source, re.MULTILINE)[0]
version = ".".join(release.split(".")[:2])

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "changelog"]

html_theme = "furo"
html_title = f"meshflow {version}"
