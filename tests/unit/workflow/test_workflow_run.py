"""Every node is a governed step; branches, joins, loops, maps and subgraphs run what they should and say so."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import Any

import pytest

from meshflow import ConfigError, Metered, Policy, StepRuntime, WorkflowDefinition
from meshflow.workflow import NodeResult, NodeStatus, Registry, RunStatus, WorkflowRunError

LINE = """\
nodes:
  a: {kind: python, call: one}
  b: {kind: python, call: two, input: "${{ input }} then ${{ nodes.a.output }}"}
  c: {kind: transform, input: {said: "${{ nodes.b.output }}"}}
edges: [a -> b -> c]
"""
DIAMOND = """\
nodes:
  a: {kind: transform, input: {n: "${{ input }}"}}
  b: {kind: python, call: one}
  c: {kind: python, call: two}
  d: {kind: python, call: three}
edges:
  - {from: a, to: b, when: nodes.a.output.n > 0}
  - {from: a, to: c, when: nodes.a.output.n > 10}
  - {from: [b, c], to: d}
"""


async def test_nodes_run_in_order_and_hand_on_their_outputs(world: Any) -> None:
    result = await world.run(LINE, "hello")
    assert result.ok
    assert result.unwrap() == {"said": "two"}
    assert world.calls == [("one", "hello"), ("two", "hello then one")]
    assert await world.steps() == ["@start commit", "a commit", "b commit", "c commit", "@end commit"]
    assert (await world.ledger.verify_chain(world.run_id))["valid"]
    assert [result.nodes[name].step_ids for name in "abc"] == [("a",), ("b",), ("c",)]


async def test_a_map_in_a_text_is_spelled_alike_each_time(world: Any) -> None:
    """The evaluator gives maps in any order, and an approval holds for the text that was approved alone."""
    given = [{"b": 1, "a": {"z": 1, "y": [2]}} for _ in range(8)]
    flow = LINE.replace("${{ input }} then ${{ nodes.a.output }}", "got: ${{ input }}")
    assert (await world.run(flow, given)).ok
    assert world.calls[1] == ("two", "got: [" + ",".join(['{"a":{"y":[2],"z":1},"b":1}'] * 8) + "]")


async def test_a_join_waits_for_all_that_can_still_arrive_and_runs_once(world: Any) -> None:
    order: list[str] = []

    async def slowly(_: Any) -> str:
        await asyncio.sleep(0.05)
        order.append("b")
        return "b"

    world.registry = Registry()
    world.function("one", slowly)
    world.function("two", lambda _: order.append("c"))
    world.function("three", lambda given: order.append("d") or sorted(given))
    result = await world.run(DIAMOND, 11)
    assert result.output == ["b", "c"]
    assert order == ["c", "b", "d"]


async def test_a_branch_that_is_not_taken_is_skipped_and_its_join_still_runs(world: Any) -> None:
    result = await world.run(DIAMOND, 5)
    assert result.status is RunStatus.COMPLETED
    assert result.named("skipped") == ("c",)
    assert world.calls[-1] == ("three", {"b": "one"})


async def test_skipping_goes_on_to_the_end_of_a_branch(world: Any) -> None:
    result = await world.run(DIAMOND, 0)
    assert result.named("skipped") == ("b", "c", "d")
    assert result.ok
    assert result.output is None
    assert world.calls == []


async def test_a_condition_may_read_that_a_node_was_skipped(world: Any) -> None:
    text = DIAMOND.replace("d: {kind: python, call: three}", "d: {kind: transform, input: '${{ nodes.c.status }} "
                           "${{ nodes.c.output == null }} ${{ nodes.b.runs }}'}")  # fmt: skip
    assert (await world.run(text, 5)).output == "skipped true 1"


async def test_a_condition_that_fails_ends_the_run_and_is_never_false(world: Any) -> None:
    result = await world.run(DIAMOND, "a text")
    assert result.status is RunStatus.FAILED
    assert result.code == "workflow.condition_error"
    assert "a -> b" in result.reason
    assert result.node == "b"
    assert (result.nodes["b"].status, result.nodes["d"].status) == (NodeStatus.FAILED, NodeStatus.CANCELLED)
    assert result.output is None
    assert world.calls == []
    with pytest.raises(WorkflowRunError, match=r"failed at node b: workflow\.condition_error"):
        result.unwrap()


LOOP = """\
state: {count: 0, notes: []}
nodes:
  draft: {kind: python, call: one, set: {count: "${{ state.count + 1 }}", notes: "${{ state.notes + [nodes.draft.output] }}"}}
  judge: {kind: transform, input: "${{ state.count >= input }}"}
  done: {kind: transform, input: {count: "${{ state.count }}", notes: "${{ state.notes }}", runs: "${{ nodes.draft.runs }}"}}
edges:
  - draft -> judge
  - {from: judge, to: draft, when: "!nodes.judge.output", loop: {max: 4}}
  - judge -> done
"""  # noqa: E501


async def test_a_loop_runs_until_its_condition_is_false(world: Any) -> None:
    result = await world.run(LOOP, 3)
    assert result.output == {"count": 3, "notes": ["one", "one", "one"], "runs": 3}
    assert (await world.steps())[1:7] == [
        "draft commit", "judge commit", "draft#2 commit", "judge#2 commit", "draft#3 commit", "judge#3 commit",
    ]  # fmt: skip


async def test_a_loop_at_its_bound_is_reported_and_does_not_count_as_completed(world: Any) -> None:
    result = await world.run(LOOP, 100)
    assert result.status is RunStatus.LIMIT_REACHED
    assert (result.code, result.node) == ("workflow.loop_limit", "judge")
    assert result.nodes["draft"].runs == 5
    assert result.nodes["done"].status is NodeStatus.CANCELLED
    assert result.output is None


async def test_an_inner_loop_begins_anew_with_each_round_of_the_outer(world: Any) -> None:
    text = """\
state: {inner: 0, outer: 0}
nodes:
  top: {kind: transform, set: {inner: 0}}
  body: {kind: python, call: one, set: {inner: "${{ state.inner + 1 }}"}}
  bottom: {kind: transform, set: {outer: "${{ state.outer + 1 }}"}}
edges:
  - top -> body -> bottom
  - {from: body, to: body, when: state.inner < 3, loop: {max: 2}}
  - {from: bottom, to: top, when: state.outer < 4, loop: {max: 3}}
output: {inner: "${{ state.inner }}", outer: "${{ state.outer }}", runs: "${{ nodes.body.runs }}"}
"""
    result = await world.run(text)
    assert result.output == {"inner": 3, "outer": 4, "runs": 12}


async def test_a_map_runs_each_item_bounded_and_in_order(world: Any) -> None:
    running, most = 0, 0

    async def item(given: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02 * (10 - given["item"]))
        running -= 1
        return given["item"] * 10 + given["at"]

    world.function("item", item)
    text = """\
nodes:
  all:
    kind: map
    over: ${{ input }}
    concurrency: 3
    do: {kind: python, call: item, input: {item: "${{ item }}", at: "${{ index }}"}}
"""
    result = await world.run(text, list(range(10)))
    assert result.output == [number * 11 for number in range(10)]
    assert most == 3
    assert result.nodes["all"].step_ids[:2] == ("all[0]", "all[1]") or len(result.nodes["all"].step_ids) == 10
    assert result.nodes["all"].attempts == 10


async def test_a_map_over_a_million_items_is_refused_before_its_first(world: Any) -> None:
    text = "nodes:\n  all: {kind: map, over: '${{ input }}', do: {kind: python, call: one}}\n"
    assert not (await world.run(text, [0] * 1_000_000, run_id=f"{world.run_id}-million")).ok
    result = await world.run(text, [0] * 1_001)
    assert (result.status, result.code) == (RunStatus.LIMIT_REACHED, "workflow.max_items")
    assert world.calls == []
    assert (await world.run(text, [], run_id=f"{world.run_id}-empty")).output == []
    assert (await world.run(text, {"a": 1}, run_id=f"{world.run_id}-none")).code == "workflow.not_a_list"


async def test_one_failing_item_fails_the_map_and_starts_no_further(world: Any) -> None:
    world.function("item", lambda given: 1 // given)
    text = "nodes:\n  all: {kind: map, concurrency: 1, over: '${{ input }}', do: {kind: python, call: item}}\n"
    result = await world.run(text, [1, 0, 1, 1])
    assert (result.status, result.code) == (RunStatus.FAILED, "execution.handler_error")
    assert "ZeroDivisionError" in result.reason
    assert len(world.calls) == 2
    (item,) = result.nodes["all"].inner.values()
    assert (item.name, item.status, item.step_ids) == ("[1]", NodeStatus.FAILED, ("all[1]",))
    assert "ZeroDivisionError" in item.reason


SUBGRAPH = """\
nodes:
  inner:
    kind: subgraph
    workflow:
      nodes:
        first: {kind: python, call: one}
        again: {kind: map, over: [1, 2], do: {kind: python, call: two}}
      edges: [first -> again]
      output: {first: "${{ nodes.first.output }}", all: "${{ nodes.again.output }}", given: "${{ input }}"}
  last: {kind: python, call: three}
edges: [inner -> last]
"""


async def test_a_subgraph_runs_in_the_same_run_under_its_own_names(world: Any) -> None:
    result = await world.run(SUBGRAPH, "x")
    assert world.calls[-1] == ("three", {"first": "one", "all": ["two", "two"], "given": "x"})
    steps = await world.steps()
    assert "inner/first commit" in steps
    assert "inner/again[1] commit" in steps
    assert set(result.nodes["inner"].inner) == {"first", "again"}
    assert result.nodes["inner"].inner["first"].status is NodeStatus.COMPLETED


async def test_a_registered_workflow_runs_by_name_and_may_not_hold_itself(world: Any) -> None:
    world.registry.workflow("line", WorkflowDefinition.from_yaml(LINE))
    text = "nodes:\n  all: {kind: map, over: [a, b], do: {kind: subgraph, ref: line}}\n"
    result = await world.run(text)
    assert result.output == [{"said": "two"}, {"said": "two"}]
    assert "all[1]/b commit" in await world.steps()
    itself = WorkflowDefinition.from_yaml("nodes:\n  a: {kind: subgraph, ref: self}\n")
    world.registry.workflow("self", itself)
    result = await world.run(itself, run_id=f"{world.run_id}-self")
    assert (result.status, result.code) == (RunStatus.FAILED, "workflow.too_deep")


async def test_labels_follow_the_data_and_not_the_order(world: Any) -> None:
    world.function("search", lambda _: "found", tool=True)
    text = """\
nodes:
  search: {kind: tool, tool: search, input: {query: x}}
  reads: {kind: python, call: one, input: "${{ nodes.search.output }}"}
  fixed: {kind: python, call: two, input: "a constant"}
  given: {kind: python, call: three, input: "${{ input }}"}
  least: {kind: python, call: four, input: "x", labels: {confidentiality: secret}}
edges: [search -> reads -> fixed -> given -> least]
"""
    assert (await world.run(text, "hello")).ok
    steps = {step["step_id"]: step["labels"] for step in await world.ledger.get_run(world.run_id)}
    assert steps["search"]["origin"] == "trusted"
    assert steps["reads"]["origin"] == "tool"
    assert steps["fixed"]["origin"] == "trusted"
    assert steps["given"] == {"origin": "user", "confidentiality": "internal"}
    assert steps["least"]["confidentiality"] == "secret"
    assert steps["@end"]["confidentiality"] == "secret"


async def test_cost_and_tokens_add_up_and_a_cap_is_a_cap(world: Any) -> None:
    world.function("pay", lambda _: Metered("ok", "0.40", 10))
    text = """\
limits: {cost_usd: 1.0}
nodes:
  all: {kind: map, concurrency: 1, over: [1, 2, 3, 4], do: {kind: python, call: pay, estimate_usd: 0.4}}
"""
    result = await world.run(text)
    assert (result.status, result.code) == (RunStatus.LIMIT_REACHED, "workflow.budget")
    assert len(world.calls) == 2
    assert result.cost_usd == pytest.approx(0.8)
    assert result.tokens == 20


async def test_a_run_takes_no_more_steps_than_it_may(world: Any) -> None:
    result = await world.run("limits: {max_steps: 3}\n" + LINE, "x")
    assert (result.status, result.code, result.node) == (RunStatus.LIMIT_REACHED, "workflow.max_steps", "c")


async def test_what_nothing_goes_by_is_found_before_anything_runs(world: Any) -> None:
    with pytest.raises(ConfigError, match=r"workflow:3:3: nodes\.b: unknown function \(did you mean one\?\): 'oen'"):
        await world.run(LINE.replace("call: two", "call: oen"), "x")
    with pytest.raises(ConfigError, match="no tool is registered: 't'"):
        await world.run("nodes:\n  a: {kind: tool, tool: t}\n")
    with pytest.raises(ConfigError, match="no runtime 'strict' is given"):
        await world.run("nodes:\n  a: {kind: transform, runtime: strict}\n")
    with pytest.raises(ConfigError, match="needs the compliance profile 'hipaa'"):
        await world.run("nodes:\n  a: {kind: transform, profiles: hipaa}\n")
    assert world.calls == []
    assert await world.steps() == []


async def test_a_node_may_be_governed_by_another_runtime(world: Any) -> None:
    policy = 'package meshflow.policy\ndecision := {"allow": input.node.id != "b", "reasons": []}'
    async with StepRuntime(ledger=world.ledger, policy=Policy.from_rego(policy)) as strict:
        text = LINE.replace("call: two,", "call: two, runtime: strict,")
        result = await world.run(text, "x", runtimes={"strict": strict})
    assert (result.status, result.node, result.nodes["b"].status) == (RunStatus.DENIED, "b", NodeStatus.DENIED)
    assert result.nodes["a"].status is NodeStatus.COMPLETED


async def test_the_input_is_checked_against_its_schema(world: Any) -> None:
    text = "input: {schema: {type: object, required: [query], properties: {query: {type: string}}}}\n" + LINE
    with pytest.raises(ConfigError, match='"query" is a required property'):
        await world.run(text, {})
    with pytest.raises(ConfigError, match="is not plain data"):
        await world.run(LINE, object())
    with pytest.raises(ConfigError, match=r"input\.schema: is not a usable JSON Schema"):
        WorkflowDefinition.from_yaml("input: {schema: {type: nonsense}}\n" + LINE)
    assert (await world.run(text, {"query": "x"})).ok


async def test_the_outside_sees_each_node_end(world: Any) -> None:
    seen: list[NodeResult] = []
    await world.run(DIAMOND, 5, on_node=seen.append)
    assert [(node.name, node.status) for node in seen] == [
        ("a", "completed"), ("b", "completed"), ("d", "completed"),
    ]  # fmt: skip


async def test_a_handler_that_changes_its_input_changes_nobody_elses(world: Any) -> None:
    async def spoil(given: Any) -> str:
        given["list"].append("spoilt")
        given.clear()
        return "ok"

    world.function("spoil", spoil)
    text = """\
nodes:
  a: {kind: transform, input: "${{ input }}"}
  b: {kind: python, call: spoil}
  c: {kind: python, call: spoil, input: "${{ input }}"}
  d: {kind: python, call: one, input: {a: "${{ nodes.a.output }}", i: "${{ input }}"}}
edges: [a -> b -> c -> d]
"""
    given = {"list": [1]}
    assert (await world.run(text, given)).ok
    assert world.calls[-1] == ("one", {"a": {"list": [1]}, "i": {"list": [1]}})
    assert given == {"list": [1]}


async def test_sync_functions_do_not_hold_each_other_up(world: Any) -> None:
    barrier = threading.Barrier(2, timeout=10)

    def meet(given: Any) -> str:
        barrier.wait()
        return threading.current_thread().name

    world.registry.function(meet)
    text = "nodes:\n  all: {kind: map, over: [1, 2], do: {kind: python, call: meet}}\n"
    result = await world.run(text)
    assert threading.main_thread().name not in result.output


async def test_a_long_line_take_no_thread_and_no_task_each(world: Any) -> None:
    names = [f"n{number}" for number in range(300)]
    wf = WorkflowDefinition.from_mapping(
        {
            "nodes": {name: {"kind": "transform"} for name in names},
            "edges": [{"from": one, "to": two} for one, two in pairwise(names)],
        }
    )
    threads, tasks = threading.active_count(), 0

    def watch(_: NodeResult) -> None:
        nonlocal tasks
        tasks = max(tasks, len(asyncio.all_tasks()))

    result = await world.run(wf, "x", on_node=watch)
    assert result.output == "x"
    assert tasks < 10
    assert threading.active_count() <= threads + 3


async def test_two_joins_racing_each_run_once(world: Any) -> None:
    text = """\
nodes:
  a: {kind: python, call: one}
  b: {kind: python, call: one}
  x: {kind: python, call: two}
  y: {kind: python, call: three}
  end: {kind: transform}
edges:
  - {from: [a, b], to: [x, y]}
  - {from: [x, y], to: end}
"""
    for number in range(20):
        world.calls.clear()
        result = await world.run(text, run_id=f"{world.run_id}-{number}")
        assert sorted(world.called) == ["one", "one", "three", "two"]
        assert result.output == {"x": "two", "y": "three"}


async def test_state_that_two_nodes_set_beside_each_other_is_an_error(world: Any) -> None:
    text = """\
state: {v: 0, n: 0.5}
nodes:
  a: {kind: transform, input: 1, set: {v: 1}}
  b: {kind: transform, input: 2, set: {v: 2}}
start: [a, b]
"""
    result = await world.run(text)
    assert (result.status, result.code) == (RunStatus.FAILED, "workflow.state_conflict")
    wrong = "state: {v: 0}\nnodes:\n  a: {kind: transform, set: {v: '${{ input }}'}}\n"
    assert (await world.run(wrong, "x", run_id=f"{world.run_id}-type")).code == "workflow.state_type"


async def test_a_run_without_a_runtime_is_governed_all_the_same(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wf = WorkflowDefinition.from_yaml("nodes:\n  a: {kind: transform, input: 'for ${{ input }}'}\n")
    result = await wf.run(input="summarize AI safety")
    assert result.output == "for summarize AI safety"
    assert (tmp_path / "meshflow_runs.db").exists()


async def test_results_are_json(world: Any) -> None:
    import json

    result = await world.run(SUBGRAPH, "x")
    document = json.loads(json.dumps(result.to_dict()))
    assert document["status"] == "completed"
    assert document["nodes"][0]["inner"][0]["name"] == "first"
