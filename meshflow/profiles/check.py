"""Whether a pack is sound: its rules compile and answer, its tests pass, and what rules name is in the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from meshflow.errors import ConfigError
from meshflow.policy import Bundle
from meshflow.policy.compile import inspect
from meshflow.policy.engine import COMPLIANCE
from meshflow.policy.rego_tests import run_rego_tests
from meshflow.policy.tools.check import check_bundle
from meshflow.profiles.packs import LIBRARY, Pack, load_pack

_REASON = re.compile(r'\breason\(\s*"(?P<code>[a-z][a-z0-9_.]*)"\s*,\s*"(?P<control>[^"]+)"')
_TEST_FILE = "_test.rego"


@dataclass(slots=True)
class PackCheck:
    """What was found in one pack and in those that it extends."""

    controls: int = 0
    tests: int = 0
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"sound": not self.problems, "controls": self.controls, "tests": self.tests, "problems": self.problems}


def check_pack(pack: Pack) -> PackCheck:
    """Check a pack and what it extends; what can be known without a step."""
    found = PackCheck()
    for one in pack.line():
        found.controls += len(one.manifest.controls)
        if one.bundle is None:
            continue
        try:
            bundle = load_pack(one.folder, {}, tests=True).bundle
            assert bundle is not None  # noqa: S101 - it has rules, or bundle would be None above
            findings = check_bundle(bundle)
            found.problems += [f"{_place(one, finding.where)}: {finding.message}" for finding in findings]
            if any(finding.severity == "error" for finding in findings):
                continue
            found.problems += _rules(one, bundle)
            results = run_rego_tests(bundle)
        except ConfigError as error:
            found.problems.append(str(error))
            continue
        found.tests += len(results)
        found.problems += [
            f"{one.folder / test.where}: {test.rule} {test.problem}" for test in results if not test.passed
        ]
        if not results:
            found.problems.append(f"{one.folder}: the rules have no test; write test_* rules in a file *{_TEST_FILE}")
    return found


def _place(pack: Pack, where: str) -> str:
    """Return where a finding is: a file and line of the pack, or the pack's folder where it is about all of it."""
    return str(pack.folder / where) if where.rpartition(":")[0] else str(pack.folder)


def _rules(pack: Pack, bundle: Bundle) -> Iterator[str]:
    rules = inspect(bundle, "regorus").rules
    if COMPLIANCE.rule not in rules:
        yield f"{pack.folder}: the pack lacks {COMPLIANCE.rule}, which is asked at stage 6"
    texts = {path: text for path, text in bundle.policies.items() if not path.startswith(f"meshflow/{LIBRARY}/")}
    tests = "".join(text for path, text in texts.items() if path.endswith(_TEST_FILE))
    known = [control.id for control in pack.manifest.controls]
    for path, text in texts.items():
        if path.endswith(_TEST_FILE):
            continue
        for match in _REASON.finditer(text):
            where = f"{pack.folder / path}:{text.count(chr(10), 0, match.start()) + 1}"
            code, control = match["code"], match["control"]
            if not any(one == control or one.endswith(f" {control}") for one in known):
                yield f"{where}: the rule {code} names the control {control!r}, which is not in the manifest"
            elif f'"{code}"' not in tests and control not in tests:
                yield f"{where}: no test names the rule {code} or its control"
