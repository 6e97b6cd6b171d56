"""Write the tables of docs/reference/workflow.md, and the JSON Schema beside it, from the models of workflow files.

Run ``python docs/workflow_keys.py`` after a change to them.
"""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from meshflow.workflow.codes import CODES
from meshflow.workflow.schema import workflow_schema
from meshflow.workflow.spec import NODE_TYPES, Document, Edge, Limits, Node
from meshflow.workflow.spec.nodes import CompensationNode, Labels, Retry

PAGE = Path(__file__).parent / "reference" / "workflow.md"
SCHEMA = PAGE.with_name("workflow-schema.json")
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"
_MARKED = re.compile(r"<!-- begin: (?P<name>[a-z0-9_ ]+) -->\n.*?<!-- end: (?P=name) -->", re.DOTALL)


def _settings() -> Any:
    """Return the script that writes the tables of meshflow.yaml; these have its form."""
    spec = spec_from_file_location("write_settings", Path(__file__).parent / "settings.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("docs/settings.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own(model: type[Node]) -> type[BaseModel]:
    """Return a model of the keys that only one kind of node has."""
    names = [name for name in model.model_fields if name not in Node.model_fields and name != "kind"]
    fields: Any = {name: (model.model_fields[name].annotation, model.model_fields[name]) for name in names}
    made: type[BaseModel] = create_model(model.__name__, **fields)
    return made


def tables() -> dict[str, str]:
    """Return every generated part of the page by its name."""
    table = _settings().Table
    parts = {
        "file": table(Document, flat=True).text(),
        "limits": table(Limits).text(),
        "edge": table(Edge).text(),
        "node": table(Node, flat=True).text(),
        "retry": table(Retry).text(),
        "labels": table(Labels).text(),
        "compensate": table(CompensationNode).text(),
    }
    parts |= {
        f"kind {kind}": table(own(model), flat=True).text() if own(model).model_fields else "No keys of its own."
        for kind, model in NODE_TYPES.items()
    }
    rows = [f"| `{code}` | {meaning} |" for code, meaning in sorted(CODES.items())]
    parts["codes"] = "| code | meaning |\n|---|---|\n" + "\n".join(rows)
    return parts


def page(text: str) -> str:
    """Return the page's text with every marked part written anew; KeyError for a mark that nothing fills."""
    parts = tables()
    return _MARKED.sub(lambda m: f"{BEGIN.format(m['name'])}\n{parts[m['name']]}\n{END.format(m['name'])}", text)


def schema() -> str:
    """Return the schema as it is published."""
    return json.dumps(workflow_schema(), indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    SCHEMA.write_text(schema(), "utf-8")
