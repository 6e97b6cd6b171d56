"""Running a bundle's own tests: which there are, how they go, which lines they reach, and JUnit."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from meshflow.policy import Policy
from meshflow.policy.rego_tests import TestRun as Run
from meshflow.policy.rego_tests import run_rego_tests, run_with_coverage
from meshflow.policy.tools.junit import junit_xml

POLICY = """package meshflow.policy

decision := {"allow": count(denials) == 0, "reasons": denials}

denials contains {"code": "shell"} if {
	input.tool == "shell"
	print("tool", input.tool)
}

denials contains {"code": "night"} if {
	input.night
	input.action
}
"""
TESTS = """package meshflow.policy_test

import data.meshflow.policy

test_shell if {
	not policy.decision.allow with input as {"tool": "shell"}
}

test_wrong if policy.decision.allow with input as {"tool": "shell"}

test_number := 3

test_error if to_number(input.nothing.at_all) == to_number("x")
"""


def run(only: str | None = None, policy: str = POLICY, tests: str = TESTS) -> Run:
    return run_with_coverage(Policy.from_rego({"p.rego": policy, "p_test.rego": tests}).bundle, only)


def test_anything_but_true_fails_and_says_why() -> None:
    problems = {test.rule.rpartition(".")[2]: test.problem for test in run().tests}
    assert problems["test_shell"] == ""
    assert problems["test_wrong"] == "is undefined, not true"
    assert problems["test_number"] == "is 3, not true"
    assert problems["test_error"]
    assert not run().passed


def test_each_test_keeps_what_its_rules_printed() -> None:
    prints = {test.rule.rpartition(".")[2]: test.prints for test in run().tests}
    assert "tool" in prints["test_shell"][0]
    assert prints["test_number"] == ()


def test_coverage_is_by_line_and_leaves_tests_out() -> None:
    (file,) = run("test_shell").files
    assert file.path == "p.rego"
    assert {3, 5, 6, 7, 11} <= set(file.covered)
    assert file.missed == (10, 12)
    assert 60 < file.percent < 100
    assert run("test_number").percent == 0.0


def test_only_chooses_by_name_and_no_test_at_all_does_not_pass() -> None:
    assert [test.rule for test in run("shell$").tests] == ["data.meshflow.policy_test.test_shell"]
    assert run("shell$").passed
    assert not run("no such test").passed


def test_without_coverage_the_same_tests_are_run() -> None:
    bundle = Policy.from_rego({"p.rego": POLICY, "p_test.rego": TESTS}).bundle
    assert [test.problem for test in run_rego_tests(bundle)] == [test.problem for test in run().tests]


def test_junit_can_be_read_and_counts() -> None:
    root = ElementTree.fromstring(junit_xml(run(), "a & <b>"))
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("a & <b>", "4", "3")
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["test_shell"].get("classname") == "meshflow.policy_test"
    assert (cases["test_shell"].get("file"), cases["test_shell"].get("line")) == ("p_test.rego", "5")
    assert cases["test_shell"].find("failure") is None
    assert cases["test_shell"].findtext("system-out")
    failure = cases["test_number"].find("failure")
    assert failure is not None
    assert failure.get("message") == "is 3, not true"


@pytest.mark.parametrize("sign", ["\\u0000", "\\u001b[2J", "\\ufffe"])
def test_junit_holds_nothing_that_xml_has_no_form_for(sign: str) -> None:
    odd = run(tests=f'package meshflow.policy_test\n\ntest_odd := "{sign}"\n')
    assert ElementTree.fromstring(junit_xml(odd, "x\x00")) is not None


def test_a_test_that_crashes_the_engine_fails_and_the_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    crash = 'test_b if strings.count("abc", input.q) with input as {"q": ""}'
    rules = f"package t\n\ntest_a if true\n\n{crash}\n\ntest_c if true"
    run = run_with_coverage(Policy.from_rego({"x.rego": "package x\n\ny := 1", "t_test.rego": rules}).bundle)
    assert [(test.rule.rpartition(".")[2], test.problem) for test in run.tests] == [
        ("test_a", ""), ("test_b", "the policy engine crashed"), ("test_c", ""),
    ]  # fmt: skip
    capfd.readouterr()
