"""The bundles that come with meshflow: found, and their own tests hold."""

from __future__ import annotations

import re

import pytest

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, Policy, shipped_bundle
from meshflow.policy.engine import COMPLIANCE, OUTPUT, POLICY, TOOLS
from meshflow.policy.rego_tests import run_rego_tests
from meshflow.policy.shipped import shipped_names


def test_every_rego_test_of_the_starter_bundle_passes() -> None:
    results = run_rego_tests(Bundle.load(shipped_bundle("authz"), tests=True))
    assert [test for test in results if not test.passed] == []
    assert len(results) >= 20


def test_every_reason_code_of_the_starter_bundle_has_a_test() -> None:
    bundle = Bundle.load(shipped_bundle("authz"), tests=True)
    tests = "".join(text for path, text in bundle.policies.items() if path.endswith("_test.rego"))
    rules = "".join(text for path, text in bundle.policies.items() if not path.endswith("_test.rego"))
    codes = re.findall(r'lib\.reason\("\w+", "(\w+)"', rules)
    assert len(codes) >= 9
    assert [code for code in codes if f'"{code}"' not in tests] == []


def test_each_file_of_rules_has_tests_beside_it() -> None:
    folder = shipped_bundle("authz")
    rules = {path.name for path in folder.glob("*.rego") if not path.name.endswith("_test.rego")}
    assert {path.name for path in folder.glob("*_test.rego")} == {name.replace(".rego", "_test.rego") for name in rules}


async def test_the_starter_bundle_answers_at_stages_5_and_11() -> None:
    engine = Policy.from_bundle(shipped_bundle("authz")).engine()
    await engine.start()
    assert [engine.has(entry.rule) for entry in (POLICY, COMPLIANCE, TOOLS, OUTPUT)] == [True, False, True, False]
    await engine.close()


def test_profiles_are_shipped_by_name() -> None:
    assert "hipaa" in shipped_names("profiles")
    assert (shipped_bundle("profiles/hipaa") / "profile.yaml").is_file()


@pytest.mark.parametrize("name", ["nothing", "../authz", "/etc", "", "authz/../authz", "AUTHZ", "."])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="ships no policy bundle"):
        shipped_bundle(name)
