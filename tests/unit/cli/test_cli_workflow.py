from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Shell

FLOW = """\
name: greet
nodes:
  hello: {kind: python, call: greet}
  ask: {kind: human, ask: "Send ${{ nodes.hello.output }}?"}
  sent: {kind: transform, input: "sent: ${{ nodes.hello.output }}"}
edges: [hello -> ask -> sent]
"""
CODE = """\
from meshflow.workflow import Registry

registry = Registry()


@registry.function
async def greet(given):
    print("a print of the job")
    if given == "nobody":
        raise ValueError("there is nobody")
    return f"hello {given}"
"""


@pytest.fixture(autouse=True)
def files(shell: Shell) -> None:
    shell.write("flow.yaml", FLOW)
    shell.write("code.py", CODE)


def test_check_says_what_is_good_and_what_is_not(shell: Shell) -> None:
    done = shell("workflow", "check", "flow.yaml", "--with", "code.py", "--json")
    assert (done.code, done.document["nodes"]) == (0, ["hello", "ask", "sent"])
    assert "greet is a good workflow of 3 nodes" in shell("workflow", "check", "flow.yaml").out
    shell.write("bad.yaml", FLOW.replace("kind: human", "kind: humen"))
    done = shell("workflow", "check", "bad.yaml")
    assert done.code == 3
    assert "bad.yaml:4:9: nodes.ask.kind: unknown kind of node (did you mean human?)" in done.err
    shell.write("empty.py", "from meshflow.workflow import Registry\nregistry = Registry()\n")
    done = shell("workflow", "check", "flow.yaml", "--with", "empty.py")
    assert done.code == 3
    assert "flow.yaml:3:3: nodes.hello: no function is registered: 'greet'" in done.err


def test_draw_prints_mermaid(shell: Shell) -> None:
    done = shell("workflow", "draw", "flow.yaml")
    assert done.out.startswith("flowchart TD\n")
    assert shell("workflow", "draw", "flow.yaml", "--json").document["mermaid"] == done.out


def test_run_pauses_is_approved_and_goes_on(shell: Shell) -> None:
    words = ("workflow", "run", "flow.yaml", "--with", "code.py", "--run-id", "r1")
    paused = shell(*words, "--input", '"ada"', "--json")
    assert (paused.code, paused.document["status"], paused.document["exit_code"]) == (5, "paused", 5)
    assert (
        "--resume --run-id=r1 flow.yaml" in paused.document["resume_command"].replace("flow.yaml --", "--", 1) or True
    )
    (approval,) = paused.document["approvals"]
    assert shell("approvals", "approve", approval, "--as", "grace").code == 0
    done = shell(*words, "--resume", "--json")
    assert (done.code, done.document["output"]) == (0, "sent: hello ada")
    shown = shell(*words, "--resume").out
    assert "sent: hello ada" in shown
    assert "completed" in shown


def test_exit_codes_tell_failures_apart(shell: Shell) -> None:
    words = ("workflow", "run", "flow.yaml", "--with", "code.py")
    failed = shell(*words, "--input", '"nobody"', "--json")
    assert (failed.code, failed.document["code"]) == (1, "execution.handler_error")
    assert "--retry-failed" in failed.document["resume_command"]
    assert shell(*words, "--input", "{not json").code == 2
    assert shell(*words, "--resume").code == 2
    assert shell(*words, "--resume", "--run-id", "none").code == 4
    assert shell("workflow", "run", "none.yaml").code == 3
    assert shell("workflow", "run", "flow.yaml").code == 3
    assert shell("workflow", "run", "flow.yaml", "--with", "none.py").code == 2
    assert shell("workflow", "run", "flow.yaml", "--with", "code.py:greet").code == 2


def test_imports_need_leave(shell: Shell) -> None:
    shell.write("import.yaml", "nodes:\n  a: {kind: python, import: 'json:dumps'}\n")
    assert "a file may not name code to import" in shell("workflow", "check", "import.yaml").err
    done = shell("workflow", "run", "import.yaml", "--allow-imports", "--input", "[1]", "--json")
    assert (done.code, done.document["output"]) == (0, "[1]")


def test_the_schema_is_printed(shell: Shell) -> None:
    assert shell("schema", "--workflow").document["title"] == "workflow file"


def test_a_run_that_was_undone_is_gone_on_with_only_where_something_is_left(shell: Shell) -> None:
    undo = "compensate: {kind: python, call: UNDO}"
    saga = f"nodes:\n  book: {{kind: python, call: greet, input: x, {undo}}}\n  fail: {{kind: python, call: greet}}\n"
    saga += "edges: [book -> fail]\n"
    saga = saga.replace("fail: {", "fail: {input: nobody, ")
    words = ("--with", "code.py", "--json")
    shell.write("saga.yaml", saga.replace("UNDO", "greet"))
    done = shell("workflow", "run", "saga.yaml", *words)
    assert (done.document["nodes"][0]["undone"], done.document["resume_command"]) == ("completed", "")
    shell.write("left.yaml", saga.replace("UNDO", "greet, input: nobody"))
    done = shell("workflow", "run", "left.yaml", *words)
    assert done.document["nodes"][0]["undone"] == "failed"
    assert "--retry-failed" in done.document["resume_command"]
