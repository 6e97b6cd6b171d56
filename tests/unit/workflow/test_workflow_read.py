"""A workflow file is refused whole, with file, line, column and advice, before anything runs."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from meshflow import ConfigError, WorkflowDefinition

GOOD = """\
name: research
state: {count: 0}
nodes:
  fetch:
    kind: tool
    tool: search
    input: {query: "${{ input }}"}
    idempotent: true
    retry: {max_attempts: 3}
  each:
    kind: map
    over: ${{ nodes.fetch.output.items }}
    do: {kind: python, call: score}
  judge:
    kind: transform
    input: {ok: "${{ state.count > 2 }}"}
    set: {count: "${{ state.count + 1 }}"}
  publish:
    kind: tool
    tool: publish
    risk: irreversible
edges:
  - fetch -> each -> judge
  - {from: judge, to: each, when: "!nodes.judge.output.ok", loop: {max: 3}}
  - from: judge
    to: publish
    when: nodes.judge.output.ok
"""


LAUGHS = list(pairwise("abcdefghi"))


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        WorkflowDefinition.from_yaml(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: python", "kind: pyton", "workflow:13:10: nodes.each.do.kind: unknown kind of node (did you mean"),
        ("tool: search", "tol: search", "workflow:6:5: nodes.fetch.tol: unknown setting (did you mean tool?)"),
        ("tool: search", "tool: off", "workflow:6:5: nodes.fetch.tool: YAML reads 'off' as false; write false, or"),
        ("risk: irreversible", "risk: irreversable", "workflow:21:5: nodes.publish.risk: should be"),
        ("risk: irreversible", "risk: irreversable", "(did you mean irreversible?)"),
        ("to: publish", "to: publsh", "edges[2].to: unknown node (did you mean publish?): 'publsh'"),
        ("- fetch -> each -> judge", "- fetch -> each -> judge -> fetch", "is a circle; mark the edge that leads back"),
        ("when: nodes.judge.output.ok", "when: nodes.juge.output.ok", "unknown node juge (did you mean judge?)"),
        ("when: nodes.judge.output.ok", "when: nodes.judge.output.ok &&", "edges[2].when: "),
        ("when: nodes.judge.output.ok", "when: nodes.judge.status", "must be true or false, and this is string"),
        ('when: "!nodes.judge.output.ok"', "when: 1 + 'a' == 2", "found no matching overload for '_+_'"),
        ("  each:", "  fetch:", "the key is there twice, first in line 4; keep one"),
        ("name: research", "name: research\nnmae: x", "nmae: unknown setting (did you mean name?)"),
        ("loop: {max: 3}", "loop: {max: 0}", "edges[1].loop.max: should be greater than or equal to 1, not 0"),
        ("loop: {max: 3}", "loop: {}", "edges[1].loop.max: is required and not set"),
        ("idempotent: true\n", "action: read\n", "nodes.fetch.retry: a failed attempt may have had its effect"),
        ("count: 0", "count: none", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("set: {count:", "set: {cuont:", "unknown state variable (did you mean count?)"),
        ("nodes.fetch.output.items", "nodes.publish.output", "reads publish, which does not come before each"),
        ("  each:\n", "  in:\n", "the name of a node is a word of CEL"),
        ("  each:\n", "  ea-ch:\n", "is letters, digits and underscores"),
        ("${{ nodes.fetch.output.items }}", "${{ nodes.fetch", "${{ is never closed"),
        ("max_attempts: 3", "max_attempts: true", "should be a number, not true"),
        ("kind: transform", "kind: transform\n    start: x", "nodes.judge.start: unknown setting"),
        ("do: {kind: python, call: score}", "do: {kind: python}", "nodes.each.do: needs call or import"),
        ("do: {kind: python, call: score}", "do: {kind: map, over: [1], do: {}}", "nodes.each.do.do.kind: is required"),
        (GOOD[GOOD.index("  - from: judge") :], "", "nodes.publish: no edge leads to it or from it"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    text = problem(GOOD.replace(old, new, 1))
    assert expected in text
    assert all(re.match(r"workflow:\d+:\d+: ", line) for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\n\n", "1:1"),
        ("- a\n", "1:1"),
        ("# a remark\nname: x\n", "2:1"),
        ("nodes: [\n  a: {\n", "3:1"),
        ("nodes:\n  a: {kind: transform}\n---\nnodes: {}\n", "3:1"),
        ("nodes:\n  a: {kind: transform, input: !!binary aGk=}\n", "2:31"),
        ("nodes:\n  a: {kind: transform, input: .nan}\n", "2:31"),
        ("start: b\nnodes:\n  a: {kind: transform}\n", "1:1"),
        ("input: {schema: {type: strin}}\nnodes:\n  a: {kind: transform}\n", "1:9"),
        ("nodes:\n  a:\n    kind: transform\n    input: |\n      what is\n      ${{ inpt }}\n", "6:11"),
        ("nodes:\n  a:\n    kind: transform\n    input: |2\n        deep ${{ inpt }}\n", "5:18"),
        ("nodes:\n  a:\n    kind: transform\n    input: >\n      folded\n      ${{ inpt }}\n", "4:5"),
        ("output: '${{ nodes.b.output }}'\nnodes:\n  a: {kind: transform}\n", "1:21"),
        ("state: {a-b: 1}\nnodes:\n  a: {kind: transform}\n", "1:9"),
        ("nodes:\n  a: {kind: http, url: 'file:///etc/passwd'}\n", "2:19"),
    ],
)  # fmt: skip
def test_every_mistake_has_a_line_and_a_column(text: str, place: str) -> None:
    assert problem(text).startswith(f"workflow:{place}: ")


def test_the_column_of_an_expression_is_that_within_its_line() -> None:
    text = problem(GOOD.replace("when: nodes.judge.output.ok", "when: nodes.judge.output.ok && nodez.x"))
    line = GOOD.splitlines().index("    when: nodes.judge.output.ok") + 1
    assert text.startswith(f"workflow:{line}:{len('    when: nodes.judge.output.ok && nodez') + 1}: edges[2].when")


def test_every_mistake_is_listed_by_line() -> None:
    text = GOOD.replace("kind: python", "kind: pyton").replace("tool: search", "tol: x").replace("max: 3", "max: x")
    lines = problem(text).splitlines()
    numbers = [int(line.split(":")[1]) for line in lines]
    assert len(lines) == 4
    assert numbers == sorted(numbers)


def test_a_good_file_is_read() -> None:
    wf = WorkflowDefinition.from_yaml(GOOD)
    assert wf.name == "research"
    assert wf.nodes == ("fetch", "each", "judge", "publish")
    assert wf.plan.shape.bodies == {"judge": frozenset({"each", "judge"})}


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(GOOD.replace("kind: python", "kind: x"), "utf-8")
    with pytest.raises(ConfigError, match=r"flow\.yaml:13:10: "):
        WorkflowDefinition.from_yaml(path)
    with pytest.raises(ConfigError, match="cannot read the file: No such file"):
        WorkflowDefinition.from_yaml(str(tmp_path / "none.yaml"))


def test_dollar_name_is_text_and_never_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    wf = WorkflowDefinition.from_yaml('nodes:\n  a: {kind: transform, input: "${SECRET}"}\n')
    assert wf.to_mapping()["nodes"]["a"]["input"] == "${SECRET}"


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ("[a -> b, b -> c, {from: c, to: a, loop: {max: 2}}, {from: b, to: d}]", "leads out of the loop before"),
        ("[a -> b -> c -> d, {from: c, to: b, loop: {max: 2}}, {from: d, to: c, loop: {max: 2}}]", "overlaps"),
        ("[a -> b -> c, d -> b, {from: c, to: a, loop: {max: 2}}]", "leads into the loop past its first node a"),
        ("[a -> b -> c -> d, {from: a, to: d, loop: {max: 2}}]", "does not lead back"),
        ("[a -> b -> c -> d, {from: d, to: a, loop: {max: 2}}, {from: d, to: b, loop: {max: 2}}]", "two edges that"),
        ("[a -> b -> c -> d, {from: a, to: b}]", "there are two edges from a to b"),
        ("[a -> b -> b, c -> d]", "b -> b is a circle"),
        ("[a -> b -> c -> b, c -> d]", "b -> c -> b is a circle"),
        ("[a]", "a chain such as a -> b -> c"),
        ("a -> b", "edges: should be a list"),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_run_is_refused(edges: str, expected: str) -> None:
    nodes = "".join(f"  {name}: {{kind: transform}}\n" for name in "abcd")
    assert expected in problem(f"nodes:\n{nodes}edges: {edges}\n")


def test_nodes_beside_each_other_must_be_meant() -> None:
    nodes = "nodes:\n  a: {kind: transform}\n  b: {kind: transform}\n"
    assert "name it in start" in problem(nodes)
    assert WorkflowDefinition.from_yaml(nodes + "start: [a, b]\n").nodes == ("a", "b")
    assert "cannot be reached" in problem(nodes + "start: a\n")
    assert "has an edge that leads to it" in problem(nodes + "start: [a, b]\nedges: [a -> b]\n")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("{kind: python, import: 'os:system'}", "a file may not name code to import"),
        ("{kind: http, url: 'https://${{ input }}/x'}", "a host that is written out"),
        ("{kind: http, url: 'file:///etc/passwd'}", "should begin with http:// or https://"),
        ("{kind: http, url: 'http://user@host/'}", "a host that is written out"),
        ("{kind: subgraph}", "needs workflow or ref"),
        ("{kind: subgraph, ref: x, workflow: {}}", "takes workflow or ref, not both"),
        ("{kind: map, over: [1], do: {kind: map, over: [1], do: {kind: transform}}}", "a map may not hold a map"),
        ("{kind: map, over: [1], do: {kind: transform, set: {x: 1}}}", "use set beside over"),
        ("{kind: python, call: f, compensate: {kind: tool, call: g}}", "kind tool needs tool"),
        ("{kind: transform, input: '${{ input.matches(\"(\") }}'}", "has a pattern that is none"),
        ("{kind: subgraph, workflow: {nodes: {b: {kind: nope}}}}", "nodes.a.workflow.nodes.b.kind: unknown kind"),
        ("{kind: map, over: [1], do: {kind: transform}, retry: {}, idempotent: true}", "belongs to"),
        ("{kind: transform, input: 9223372036854775808}", "a number beyond 64 bits"),
        ("{kind: transform, input: .nan}", "nan is not a number"),
        ("{kind: transform, input: 0777}", "would be read in base 60 or 8"),
    ],
)  # fmt: skip
def test_what_a_kind_does_not_permit_is_refused(node: str, expected: str) -> None:
    assert expected in problem(f"nodes:\n  a: {node}\n")


@pytest.mark.parametrize(
    "text",
    [
        "nodes: !!python/object/apply:os.system ['touch /tmp/x']\n",
        "nodes:\n  a: !!python/name:os.system\n",
        "nodes: &a\n  b: *a\n",
        "nodes: {a: {kind: transform, input: !include /etc/passwd}}\n\n",
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in LAUGHS),
        "nodes:\n" + "  " * 0 + "[" * 5_000 + "\n",
        "nodes:\n  a: {kind: transform, input: " + "[" * 80 + "]" * 80 + "}\n",
        "x\n" * 1_000_000,
        "nodes:\n  off: {kind: transform}\n",
        "- a\n- b\n",
        "just text\n",
        "nodes: {}\n\n",
        "%YAML 9999999999999999999999.1\n---\nnodes:\n",
        "nodes:\n  a: {kind: transform}\n---\nnodes:\n  b: {kind: transform}\n",
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused_quickly(text: str, tmp_path: Path) -> None:
    begun = time.perf_counter()
    assert problem(text)
    assert time.perf_counter() - begun < 20
    assert not Path("/tmp/x").exists()


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("# " + "x" * 10_000_000 + "\n", "utf-8")
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        WorkflowDefinition.from_yaml(path)


def test_yes_and_no_and_norway_stay_what_they_are_or_are_refused() -> None:
    wf = WorkflowDefinition.from_yaml(
        "nodes:\n  a: {kind: transform, input: {land: 'NO', on_: true, when: 2026-01-01}}\n"
    )
    assert wf.to_mapping()["nodes"]["a"]["input"] == {"land": "NO", "on_": True, "when": "2026-01-01"}
    for word in ("NO", "off", "yes", "On"):
        text = problem(f"nodes:\n  a:\n    kind: transform\n    input: {{land: {word}}}\n")
        assert re.match(rf"workflow:4:13: nodes\.a\.input\.land: YAML reads '{word}' as (true|false); write", text)
    assert "YAML reads the key 'no' as true or false" in problem("nodes:\n  no: {kind: transform}\n")


def test_definitions_made_in_python_have_paths_and_no_lines() -> None:
    wf = WorkflowDefinition.from_mapping({"nodes": {"a": {"kind": "transform"}}})
    assert wf.nodes == ("a",)
    with pytest.raises(ConfigError, match=r"^workflow: nodes\.a\.kind: unknown kind"):
        WorkflowDefinition.from_mapping({"nodes": {"a": {"kind": "x"}}})
    with pytest.raises(ConfigError, match="nodes hand on JSON"):
        WorkflowDefinition.from_mapping({"nodes": {"a": object()}})


def test_imports_are_taken_only_where_code_allows_them() -> None:
    text = "nodes:\n  a: {kind: python, import: 'json:dumps'}\n"
    assert WorkflowDefinition.from_yaml(text, allow_imports=True).nodes == ("a",)
