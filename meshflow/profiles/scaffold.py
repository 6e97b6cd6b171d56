"""Begin a profile pack: a package that pip installs, with a manifest, rules and tests that pass their own check."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from meshflow.errors import ConfigError
from meshflow.profiles.manifest import FILE_NAME, NAME

_PROJECT = Template("""\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$name-profile"
version = "0.1.0"
description = "The compliance profile $name for meshflow."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["meshflow>=2,<3"]

# The name on the left is what `profiles: [$name]` in meshflow.yaml names.
[project.entry-points."meshflow.profiles"]
$name = "$module"

[tool.hatch.build.targets.wheel]
packages = ["src/$module"]
""")
_README = Template("""\
# $name

A compliance profile pack for meshflow. `pip install .`, then in meshflow.yaml:

```yaml
profiles: [$name]
```

`meshflow profiles check src/$module/` checks the manifest and runs the Rego tests.
""")
_PACKAGE = Template('''\
"""The profile $name: its manifest and rules lie beside this file."""
''')
_MANIFEST = Template("""\
# What this pack serves, what it needs, and what it does not claim. `meshflow profiles schema` prints the schema.
name: $name
title: $title
version: "0.1.0"
edition: State here which edition of the framework this follows
${extends}
controls:
  - id: $prefix 1
    title: Every actor is identified
    source: State here where the text of the control is published
    how: A step whose principal no credential backs is refused.
    evidence:
      - shows: a verified credential backs the principal
        when: {executed: true}
        holds: {principal.verified: true}
  - id: $prefix 2
    title: Sensitive actions are agreed to by a second person
    source: State here where the text of the control is published
    how: A step whose tool, action or node is listed in supervised waits for a person.
    evidence:
      - shows: another person agreed before the step ran
        when:
          executed: true
          any: [{tool: {setting: supervised}}, {action: {setting: supervised}}]
        holds: {approval.approved: true, approval.own: false}

# Stages that must be enforced, and what their plugins must vouch for; the start is refused where they do not.
required_stages: [identity_verification, policy_evaluation, tool_permission, audit_ledger]
requires: {verified_identity: true, signed_checkpoints: true}

settings:
  supervised:
    default: []
    about: Tools, actions and node ids that wait for a person; "export_*" is all that start so.

# Be honest about what no software of this kind can serve.
not_covered:
  - id: $prefix 3
    title: People are trained
    why: A duty towards people.
""")
_RULES = Template("""\
# Stage 6: what the profile asks of a step. Each reason names the control that it serves.
package meshflow.compliance

import data.meshflow.pack

decision := pack.answer(denials, escalations, [])

denials contains pack.reason("not_authenticated", "$prefix 1", "no verified credential backs the principal") if {
	not pack.verified
}

escalations contains pack.reason("needs_a_second_person", "$prefix 2", "a second person must agree to this step") if {
	pack.acts("supervised")
}
""")
_TESTS = Template("""\
package meshflow.compliance_test

import data.meshflow.compliance

step := {
	"principal": {"subject": "ana", "agent_id": "desk", "verified": true, "roles": []},
	"node": {"id": "wire", "kind": "tool"},
	"action": null,
	"tool": "wire_money",
	"arguments": {},
	"input": null,
	"declared": {"risk": null},
	"metadata": {},
}

codes(decision) := {reason.code | some reason in decision.reasons}

test_a_verified_principal_is_allowed if {
	compliance.decision == {"allow": true, "reasons": set(), "obligations": [], "escalate": false} with input as step
}

test_a_principal_without_credential_is_refused if {
	decision := compliance.decision with input as object.union(step, {"principal": {"verified": false}})
	not decision.allow
	codes(decision) == {"not_authenticated"}
}

test_an_empty_input_is_refused if {
	not compliance.decision.allow with input as {}
}

test_what_is_supervised_waits_for_a_person if {
	decision := compliance.decision with input as step
		with data.meshflow.profile.settings as {"supervised": ["wire_*"]}
	decision.escalate
	codes(decision) == {"needs_a_second_person"}
}
""")
_PYTHON_TEST = Template('''\
"""The pack is sound: its manifest reads, its rules compile, and its Rego tests pass."""

from pathlib import Path

from meshflow.profiles import load_pack
from meshflow.profiles.check import check_pack

FOLDER = Path(__file__).parents[1] / "src" / "$module"


def test_the_pack_is_sound() -> None:
    found = check_pack(load_pack(FOLDER, {}))
    assert found.problems == []
    assert found.tests >= 4
''')


def write_pack(folder: Path, name: str, extends: str | None = None) -> list[Path]:
    """Write the pack's project and return its files, the manifest first; ConfigError where something is in the way."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"a profile's name is lower-case letters, digits, - and _, not {name!r}", path="--name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("is there already, and not empty; name another folder", where=str(folder))
    if extends is not None and not re.fullmatch(NAME, extends):
        raise ConfigError(f"takes the name of a profile, not {extends!r}", path="--extends")
    module = "profile_" + name.replace("-", "_")
    words = {
        "name": name, "module": module, "title": name.replace("-", " ").replace("_", " ").capitalize(),
        "prefix": name.upper(), "extends": f"extends: {extends}\n" if extends else "",
    }  # fmt: skip
    package = folder / "src" / module
    files = {
        package / FILE_NAME: _MANIFEST,
        package / "compliance.rego": _RULES,
        package / "compliance_test.rego": _TESTS,
        package / "__init__.py": _PACKAGE,
        folder / "pyproject.toml": _PROJECT,
        folder / "README.md": _README,
        folder / "tests" / f"test_{module}.py": _PYTHON_TEST,
    }
    for path, template in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.substitute(words), "utf-8")
    return list(files)
