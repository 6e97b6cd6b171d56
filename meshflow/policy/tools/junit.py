"""Write the outcome of a bundle's tests as JUnit XML, which build servers read."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from meshflow.policy.rego_tests import TestRun

# What XML 1.0 has no form for; a test's value may hold it.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(run: TestRun, suite: str) -> str:
    """Return one suite with a case for each test, named by its package and rule."""
    failed = [test for test in run.tests if not test.passed]
    seconds = sum(test.elapsed_ns for test in run.tests) / 1e9
    root = Element("testsuites")
    element = SubElement(
        root,
        "testsuite",
        name=_clean(suite),
        tests=str(len(run.tests)),
        failures=str(len(failed)),
        errors="0",
        time=f"{seconds:.6f}",
    )
    for test in run.tests:
        package, _, name = test.rule.removeprefix("data.").rpartition(".")
        file, _, line = test.where.rpartition(":")
        case = SubElement(
            element, "testcase", classname=package, name=name, file=file, line=line, time=f"{test.elapsed_ns / 1e9:.6f}"
        )
        if not test.passed:
            SubElement(case, "failure", message=_clean(test.problem)).text = _clean(f"{test.where}: {test.problem}")
        if test.prints:
            SubElement(case, "system-out").text = _clean("\n".join(test.prints))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
