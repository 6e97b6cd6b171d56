"""``meshflow policy check`` and ``meshflow policy test``."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, line, ms, print_json, print_table, say
from meshflow.cli.policy_bundle import chosen_bundle, rego_settings

if TYPE_CHECKING:
    from meshflow.policy import Bundle
    from meshflow.policy.rego_tests import TestRun


def check_policy(
    options: Chosen, path: Path | None, data: Path | None, engine: str | None, *, strict: bool
) -> ExitCode:
    """Print what is wrong with a bundle."""
    from meshflow.policy.tools.check import check_bundle

    bundle = chosen_bundle(options, path, data, tests=True)
    evaluator = engine or rego_settings(options.load()).engine
    findings = check_bundle(bundle, evaluator)
    errors = sum(one.severity == "error" for one in findings)
    warnings = len(findings) - errors
    if options.as_json:
        found = [asdict(one) for one in findings]
        print_json(
            {"bundle": bundle.name, "digest": bundle.digest, "engine": evaluator, "errors": errors,
             "warnings": warnings, "findings": found}
        )  # fmt: skip
    else:
        for one in findings:
            say(f"{line(one.where)}: {one.severity}: {line(one.message)}")
        if findings:
            say("")
        say(
            f"{bundle.name}: {counted(len(bundle.policies), 'file')}, {counted(errors, 'error')}, "
            f"{counted(warnings, 'warning')} for {evaluator}"
        )
    return ExitCode.FAILED if errors or (strict and warnings) else ExitCode.OK


def run_policy_tests(
    options: Chosen, path: Path | None, data: Path | None, only: str | None, fail_under: float, junit: Path | None
) -> ExitCode:
    """Run a bundle's tests and print what failed and what was not reached."""
    from meshflow.policy.rego_tests import run_with_coverage
    from meshflow.policy.tools.junit import junit_xml

    try:
        re.compile(only or "")
    except re.error as error:
        raise typer.BadParameter(f"--only is no regular expression: {error}") from None
    bundle = chosen_bundle(options, path, data, tests=True)
    run = run_with_coverage(bundle, only)
    if junit is not None:
        junit.write_text(junit_xml(run, bundle.name), "utf-8")
    if options.as_json:
        print_json(_document(bundle, run))
    else:
        _print(run, bundle.name)
    return ExitCode.OK if run.passed and run.percent >= fail_under else ExitCode.FAILED


def _document(bundle: Bundle, run: TestRun) -> dict[str, object]:
    return {
        "bundle": bundle.name,
        "digest": bundle.digest,
        "passed": run.passed,
        "coverage_percent": round(run.percent, 2),
        "tests": [{**asdict(test), "passed": test.passed} for test in run.tests],
        "files": [{**asdict(one), "percent": round(one.percent, 2)} for one in run.files],
    }


def _print(run: TestRun, name: str) -> None:
    failed = [test for test in run.tests if not test.passed]
    for test in failed:
        say(f"failed: {line(test.where)}: {line(test.rule)} {line(test.problem)}", *(f"  {one}" for one in test.prints))
    if not run.tests:
        say("no test was found: a test is a rule named test_... in a file named ..._test.rego")
    rows = [
        (one.path, len(one.covered) + len(one.missed), f"{one.percent:.1f}", _ranges(one.missed)) for one in run.files
    ]
    print_table("", ("file", "lines", "reached %", "not reached"), rows, right={"lines", "reached %"})
    took = ms(sum(test.elapsed_ns for test in run.tests) / 1e6)
    say(
        f"{name}: {counted(len(run.tests) - len(failed), 'test')} passed, {len(failed)} failed, "
        f"{run.percent:.1f} % of lines reached, {took} ms"
    )


def _ranges(lines: tuple[int, ...]) -> str:
    """Return lines as people write them: 3-5, 9."""
    parts: list[list[int]] = []
    for number in lines:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
