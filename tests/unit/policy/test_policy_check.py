"""``policy check``: what it finds, where, and that it finds nothing in what is shipped."""

from __future__ import annotations

import time

import pytest

from meshflow.policy import Bundle, Policy, shipped_bundle
from meshflow.policy.shipped import shipped_names
from meshflow.policy.tools.check import Finding, check_bundle
from meshflow.profiles.packs import load_pack

HEAD = "package meshflow.policy\n\n"
ALLOW = 'decision := {"allow": true}\n'


def found(rules: str | dict[str, str], engine: str = "regorus", kind: str = "") -> list[tuple[str, str, str]]:
    texts = rules if isinstance(rules, dict) else {"p.rego": HEAD + rules}
    findings = check_bundle(Policy.from_rego(texts).bundle, engine)
    return [(one.kind, one.where, one.message) for one in findings if not kind or one.kind == kind]


@pytest.mark.parametrize("name", ["authz", *(f"profiles/{name}" for name in shipped_names("profiles"))])
@pytest.mark.parametrize("engine", ["regorus", "opa", "golib"])
def test_nothing_is_wrong_with_what_is_shipped(name: str, engine: str) -> None:
    if engine == "golib":
        pytest.importorskip("opa_bindings")
    folder = shipped_bundle(name)
    pack = load_pack(folder, {}, tests=True).bundle if name.startswith("profiles/") else None
    assert check_bundle(pack or Bundle.load(folder, tests=True), engine) == ()


@pytest.mark.parametrize(
    ("rules", "line", "said"),
    [
        ('decision := {"allow": input.risk != "irreversible"}', 3, "input.risk is not known yet at stage 5"),
        ('decision := {"allow": bad}\nbad if {\n\tinput.labels.origin == "tool"\n}', 5,
         "it is from stage 11 on, at data.meshflow.tools.decision"),
        ('decision := {"allow": input.output == 1}', 3, "it is from stage 13 on, at data.meshflow.output.decision"),
        ('decision := {"allow": f(1)}\nf(x) := input.findings[x]', 4, "input.findings is not known yet at stage 5"),
        ('import input.risk as tier\ndecision := {"allow": tier == "internal"}', 4, "input.risk is not known yet"),
        ('decision := {"allow": input.principel == 1}', 3, "did you mean principal?"),
        ('decision := {"allow": input.principal.role == 1}', 3, "has input.principal.role; did you mean roles?"),
        ('decision := {"allow": input["rissk"] == 1}', 3, "no step has input.rissk"),
        ('decision := {"allow": object.get(input, "risk", "x") == "x"}', 3, "input.risk is not known yet"),
        ('decision := {"allow": object.get(input, ["principal", "role"], "x")}', 3, "did you mean roles?"),
        ('decision := {"allow": true} if {\n\tx := input\n\tx.risk == 1\n}', 5, "input.risk is not known yet"),
        ('decision := {"allow": true} if {\n\tw.role\n\tw := s\n\ts := input.principal\n}', 4, "input.principal.role;"),
        ('decision := {"allow": f(input)}\nf(i) := i.risk', 4, "input.risk is not known yet"),
        ('decision := {"allow": f(1, input.principal)}\nf(a, b) := g(b)\ng(c) := c.role', 5, "input.principal.role;"),
        ('decision := {"allow": true} if {\n\tsome k in ["risk"]\n\tinput[k]\n}', 5, "input.risk is not known yet"),
    ],
)  # fmt: skip
def test_a_fact_that_the_stage_cannot_know_is_an_error(rules: str, line: int, said: str) -> None:
    ((kind, where, message),) = found(rules, kind="fact")
    assert (kind, where) == ("fact", f"p.rego:{line}")
    assert said in message


SHAPES = """decision := {"allow": kind_of(input.principal) == "agent", "reasons": r}

r contains {"code": "tool"} if kind_of(input.node) == "node"
"""


@pytest.mark.parametrize(
    "helper",
    [
        'kind_of(x) := "agent" if x.agent_id\nelse := "node" if x.kind',
        'kind_of(x) := "agent" if x.agent_id\n\nkind_of(x) := "node" if x.kind',
        'kind_of(x) := "agent" if a(x)\n\nkind_of(y) := "node" if n(y)\n\na(x) if x.agent_id\n\nn(x) if x.kind',
        'kind_of(x) := k(x)\n\nk(x) := "agent" if x.agent_id\nelse := "node" if x.kind\nelse := "other"',
    ],
)
def test_a_helper_for_several_shapes_may_ask_each_for_what_only_it_has(helper: str) -> None:
    assert found(f"{SHAPES}\n{helper}\n") == []


@pytest.mark.parametrize(
    ("helper", "said"),
    [
        ('kind_of(x) := "agent" if x.agent\nelse := "node" if x.typ', "input.principal.agent; did you mean agent_id?"),
        ('kind_of(x) := "agent" if x.agent\nelse := "node"', "input.principal.agent; did you mean agent_id?"),
    ],
)
def test_a_helper_for_several_shapes_must_suit_each_that_it_is_handed(helper: str, said: str) -> None:
    assert any(said in message for _, _, message in found(f"{SHAPES}\n{helper}\n", kind="fact"))


def test_a_helper_that_only_ever_gets_one_shape_is_held_to_it_in_every_body() -> None:
    rules = 'decision := {"allow": f(input.principal)}\n\nf(x) if x.agent_id == "a"\n\nf(x) if x.role == "b"\n'
    ((_, where, message),) = found(rules, kind="fact")
    assert (where, message) == ("p.rego:7", "no step has input.principal.role; did you mean roles?")


def test_a_part_of_input_may_be_handed_to_a_function_with_a_default() -> None:
    rules = 'decision := {"allow": trusted(input.principal)}\n\ndefault trusted(_) := false\n\ntrusted(p) if '
    assert found(f'{rules}"admin" in p.roles\n') == []
    ((_, where, _),) = found(f'{rules}"admin" in p.role\n', kind="fact")
    assert where == "p.rego:7"


def test_functions_that_call_themselves_with_ever_deeper_parts_end_the_check() -> None:
    rules = 'decision := {"allow": f(input)}\nf(x) := [f(x.arguments), f(x.a), f(x.principal), f(x.b.c)]'
    kinds = {kind for kind, _, _ in found(rules)}
    assert {"refused", "fact"} <= kinds


@pytest.mark.parametrize(
    "condition",
    ["data[input.tool]", "data", "input", "input[input.tool]", "data.a[data.b].c", "x := data[\"a\"]; x[input.tool].y",
     "[a, b] := input.arguments; a.c == b", "some k, v in input; k == v", "walk(input, [p, v]); p == v",
     "f(input, data)", "not input[_].x", "every k, v in input { k != v }",
     "{k: v | some k, v in input} == input.metadata"],
)  # fmt: skip
def test_whatever_a_condition_looks_like_it_can_be_checked(condition: str) -> None:
    head = 'default decision := {"allow": false}\nf(a, b) := a.c.d[b.x]\n'
    rules = f'{head}decision := {{"allow": true}} if {{\n\t{condition}\n}}'
    for _, where, message in found(rules):
        assert message
        assert where.startswith("p.rego:")


def test_a_rule_with_thousands_of_names_is_checked_in_time() -> None:
    names = "\n".join(f"\tx{number} := input.principal" for number in range(3_000))
    begun = time.process_time()
    assert found(f'default decision := {{"allow": false}}\ndecision := {{"allow": true}} if {{\n{names}\n}}') == []
    assert time.process_time() - begun < 20


def test_a_shared_rule_is_judged_by_each_stage_that_reaches_it() -> None:
    texts = {
        "p.rego": HEAD + 'import data.lib\ndecision := {"allow": lib.calm}',
        "t.rego": 'package meshflow.tools\nimport data.lib\ndecision := {"allow": lib.calm}',
        "lib.rego": 'package lib\ndefault calm := false\ncalm if input.risk == "read_only"',
    }
    assert [(where, "stage 5" in message) for _, where, message in found(texts, kind="fact")] == [("lib.rego:3", True)]
    del texts["p.rego"]
    assert found(texts, kind="fact") == []


def test_what_is_open_may_have_any_field() -> None:
    rules = (
        'decision := {"allow": [input.arguments.a.b, input.metadata.x, input.input.y, input.principal.roles[0]] != []}'
    )
    assert found(rules, kind="fact") == []


def test_facts_in_tests_are_their_own_affair() -> None:
    texts = {"p.rego": HEAD + ALLOW, "p_test.rego": "package meshflow.policy_test\ntest_x if not input.risk"}
    assert found(texts) == []


@pytest.mark.parametrize(
    ("engine", "errors"), [("regorus", ["p.rego:3", "p.rego:6"]), ("opa", ["p.rego:6"]), ("golib", ["p.rego:6"])]
)
def test_all_missing_and_forbidden_builtins_are_named_by_line(engine: str, errors: list[str]) -> None:
    if engine == "golib":
        pytest.importorskip("opa_bindings")
    rules = 'decision := {"allow": crypto.sha256("a") == "b"}\n\na := 1 if input.tool\nb := http.send({"url": "x"})'
    refused = [
        one for one in check_bundle(Policy.from_rego({"p.rego": HEAD + rules}).bundle, engine) if one.kind == "refused"
    ]
    assert [one.where for one in refused] == errors
    assert "http.send may not be called" in refused[-1].message


def test_rules_that_nothing_reaches_are_named_once() -> None:
    texts = {
        "p.rego": HEAD + ALLOW + "\nlost if input.tool\n\nlost if input.action\n\nhelp(x) := x\n\nonly_tested := 1\n",
        "p_test.rego": "package t\nimport data.meshflow.policy\ntest_a if policy.only_tested == 1\nmine := 2",
    }
    assert [(where, message) for _, where, message in found(texts, kind="unused")] == [
        ("p.rego:5", "no entry point reaches the rule lost"),
        ("p.rego:9", "no entry point reaches the function help"),
        ("p.rego:11", "no entry point reaches the rule only_tested; tests alone use it"),
    ]


def test_what_is_reached_by_an_import_or_as_a_whole_package_is_used() -> None:
    texts = {
        "p.rego": HEAD
        + 'import data.helpers as h\nimport data.all\ndecision := {"allow": h.yes, "obligations": count(all)}',
        "h.rego": "package helpers\nyes := deeper\ndeeper := true",
        "a.rego": "package all\none := 1\ntwo := 2",
    }
    assert found(texts, kind="unused") == []


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ("a if {\n\tinput.tool\n\tfalse\n}", 6),
        ('a if "x" == "y"', 4),
        ('a if "x" == `y`', 4),
        ("a if not true", 4),
        ("a if not 1 == 1", 4),
        ("a if {\n\tinput.tool\n\t2 < 1\n}", 6),
        ("a if {\n\tsome x in []\n\tx\n}", 5),
        ("a if input.tool in {}", 4),
        ('a if {\n\tinput.tool == "x"\n\tinput.action\n\t"y" == input.tool\n}', 7),
        ('a if {\n\tinput.tool != "x"\n\tinput.tool == "x"\n}', 6),
        ('a if {\n\tt := input.tool\n\tt == "x"\n\tt == "y"\n}', 7),
        ("a if 1 != 1", 4),
        ("a := 1 if { true } else := 2", 4),
        ("a := f(1)\n\nf(x) := input.arguments[x] if true\nelse if true\nelse := 7", 8),
    ],
)
def test_what_can_never_hold_is_named(rules: str, line: int) -> None:
    ((_, where, message),) = found(f'decision := {{"allow": a}}\n{rules}', kind="unreachable")
    assert where == f"p.rego:{line}"
    assert "never" in message


@pytest.mark.parametrize(
    "rules",
    [
        'a if input.tool == "x"\na := true if input.action else := false',
        'a if {\n\tinput.tool == "x"\n\tinput.action == "y"\n\tinput.node.id != "x"\n}',
        'a if {\n\tx := input.tool\n\tx == "x"\n\tnot x == "y"\n}',
        'a if not input.tool == "x"',
        'a if input.declared.risk == "internal"',
        'a if input.arguments.kind == "anything"',
        'a if {\n\tinput.tool == "x" with input.tool as "x"\n\tinput.tool == "y"\n}',
        "a if input.tool in [1]",
        "a := input.arguments.b if true\nelse := false",
        "a := f(1)\n\nf(x) := input.arguments[x] if true\nelse := 7",
        "a := f(1)\n\nf(x) := 1 if input.tool\nelse := input.arguments[x] if true\nelse := 7",
    ],
)
def test_what_can_hold_is_not_named(rules: str) -> None:
    assert found(f'decision := {{"allow": a}}\ndefault a := false\n{rules}', kind="unreachable") == []


def test_a_value_that_no_stage_that_asks_has_is_named() -> None:
    lib = 'package lib\ndefault at := false\nat if input.stage == "tool_permission"'
    one = {"p.rego": HEAD + 'import data.lib\ndecision := {"allow": lib.at}', "lib.rego": lib}
    ((_, where, message),) = found(one, kind="unreachable")
    assert (where, message.startswith("input.stage is never 'tool_permission' here")) == ("lib.rego:3", True)
    both = {**one, "t.rego": 'package meshflow.tools\nimport data.lib\ndecision := {"allow": lib.at}'}
    assert found(both, kind="unreachable") == []


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ("input.tool in data.shop.tools", "data.shop.tools"),
        ("data.meshflow.policy.nothing", "data.meshflow.policy.nothing"),
        ("input.tool in data.meshflow.policy.nothing.at_all", "data.meshflow.policy.nothing.at_all"),
        ("data.known.there == 1", ""),
        ("data.known.list[input.tool].deeper", ""),
        ("data.known.missing == 1", "data.known.missing"),
        ("data.asked.for; data.asked.for.more == 1", ""),
        ("not data.asked.for", ""),
        ("data.meshflow.policy.set[input.tool].any", ""),
    ],
)
def test_a_read_of_data_that_nothing_defines_is_named(condition: str, named: str) -> None:
    rules = (
        f'default decision := {{"allow": false}}\ndecision := {{"allow": true}} if {{ {condition} }}\nset contains 1'
    )
    data = {"known": {"there": 1, "list": []}}
    findings = check_bundle(Policy.from_rego({"p.rego": HEAD + rules}, data).bundle)
    said = [one.message for one in findings if one.kind == "undefined"]
    assert said == [one for one in said if one.startswith(f"nothing in the bundle defines {named};")]
    assert len(said) == bool(named)


@pytest.mark.parametrize("engine", ["regorus", "opa", "golib"])
def test_a_forbidden_builtin_cannot_take_the_place_of_another(engine: str) -> None:
    if engine == "golib":
        pytest.importorskip("opa_bindings")
    for name in ("http.send", "time.now_ns", "opa.runtime"):
        rules = f'decision := {{"allow": true}} if {{ upper("x") == "y" with upper as {name} }}'
        assert next(kind for kind, _, _ in found(rules, engine)) in ("compile", "refused")


def test_a_decision_that_may_be_undefined_is_a_warning() -> None:
    assert [kind for kind, _, _ in found('decision := {"allow": true} if input.tool')] == ["undefined"]
    assert found('default decision := {"allow": false}\ndecision := {"allow": true} if input.tool') == []


def test_a_bundle_that_nobody_asks_is_an_error() -> None:
    assert [kind for kind, _, _ in found({"p.rego": "package other\nx := 1"}, kind="entry_point")] == ["entry_point"]


def test_a_rule_named_internal_is_an_error() -> None:
    assert [where for _, where, _ in found(ALLOW + "\ninternal := 1", kind="name")] == ["p.rego:5"]


def test_a_syntax_error_is_the_only_finding() -> None:
    assert found("decision := {") == [("syntax", "p.rego:3", found("decision := {")[0][2])]


def test_the_evaluators_own_compiler_has_its_say() -> None:
    pytest.importorskip("opa_bindings")
    ring = 'decision := {"allow": a}\na if b\nb if a'
    assert [kind for kind, _, _ in found(ring, "golib", "compile")] == ["compile"]


def test_errors_come_first() -> None:
    findings = check_bundle(Policy.from_rego(HEAD + 'decision := {"allow": input.risk} if input.tool').bundle)
    assert [one.severity for one in findings] == ["error", "warning"]
    assert isinstance(findings[0], Finding)
