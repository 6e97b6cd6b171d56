"""A governed graph: every node and router is a step, and how a step ends is how the run ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from meshflow import NodeInput, Policy, ReplayLedger, Status, StepRuntime
from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.checkpoint.store import CheckpointError
from meshflow.facts import Confidentiality, Origin, Principal, TaintLabels, TenantScope
from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import (
    GraphError,
    InvalidRunError,
    NodeDeniedError,
    NodeFailedError,
    NodePausedError,
    RouteError,
)
from meshflow.graph.markers import END, START, Command, Send
from meshflow.graph.policies import CachePolicy, RetryPolicy
from meshflow.graph.reducers import add
from meshflow.graph.task import NodeRun, interrupt
from meshflow.plugin import Decision, NoSettings, Plugin, StepContext, hookimpl
from meshflow.step import Metered

POLICY = """
package meshflow.policy
decision := {"allow": allowed, "escalate": escalated}
default allowed := true
allowed := false if input.node.id in ["forbidden", "a.forbidden_route"]
default escalated := false
escalated if input.node.id in ["ask", "a.asking_route"]
"""


class State(TypedDict):
    log: Annotated[list[str], add]
    count: int


def saying(word: str) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"log": [word]}


def line(*names: str) -> StateGraph:
    built = StateGraph(State)
    for name in names:
        built.add_node(name, saying(name))
    for source, target in zip((START, *names), names, strict=False):
        built.add_edge(source, target)
    return built


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[ReplayLedger]:
    async with ReplayLedger(tmp_path / "ledger.db") as ledger:
        yield ledger


@pytest.fixture
async def runtime(ledger: ReplayLedger) -> AsyncIterator[StepRuntime]:
    async with StepRuntime(ledger=ledger, policy=Policy.from_rego(POLICY)) as runtime:
        yield runtime


async def steps(ledger: ReplayLedger, run_id: str) -> list[tuple[str, str]]:
    return [(one["node_id"], one["verdict"]) for one in await ledger.get_run(run_id)]


async def test_every_node_and_router_is_a_recorded_step(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    def route(state: State) -> str:
        return "again" if len(state["log"]) < 2 else "done"

    async def step(state: State) -> dict[str, Any]:
        return {"log": ["a"]}

    graph = StateGraph(State).add_node("a", step).add_edge(START, "a")
    compiled = graph.add_conditional_edges("a", route, {"again": "a", "done": END}).compile(runtime=runtime)
    assert await compiled.ainvoke({}, run_id="r") == {"log": ["a", "a"]}
    recorded = await ledger.get_run("r")
    assert [(one["node_id"], one["verdict"]) for one in recorded] == [("a", "commit"), ("a.route", "commit")] * 2
    assert recorded[0]["step_id"].startswith("0001-a-")
    assert recorded[1]["output_content"] == [{"to": "again"}]
    assert len({one["step_id"] for one in recorded}) == 4
    assert (await ledger.verify_chain("r"))["valid"]


def test_blocking_invoke_and_stream_are_governed_too(tmp_path: Path) -> None:
    runtime = StepRuntime(ledger=ReplayLedger(tmp_path / "ledger.db"), policy=Policy.from_rego(POLICY))
    compiled = line("a", "forbidden", "b").compile(runtime=runtime)
    with pytest.raises(NodeDeniedError):
        compiled.invoke({})
    events = compiled.stream({})
    assert next(events) == {"a": {"log": ["a"]}}
    with pytest.raises(NodeDeniedError):
        next(events)
    compiled.close()
    runtime.close()


async def test_denied_node_raises_and_nothing_after_it_runs(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    ran: list[str] = []
    graph = line("a").add_node("forbidden", lambda state: ran.append("forbidden"))
    graph.add_node("b", lambda state: ran.append("b")).add_edge("a", "forbidden").add_edge("forbidden", "b")
    with pytest.raises(NodeDeniedError, match=r"policy_evaluation\.denied") as error:
        await graph.compile(runtime=runtime).ainvoke({}, run_id="r")
    assert (error.value.node, error.value.outcome.status) == ("forbidden", Status.DENIED)
    assert ran == []
    assert await steps(ledger, "r") == [("a", "commit"), ("forbidden", "reject")]


async def test_denied_router_ends_the_run_as_denied(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    def forbidden_route(state: State) -> str:
        raise AssertionError("it must not be called")

    graph = line("a", "b").add_conditional_edges("a", forbidden_route, ["b"])
    with pytest.raises(NodeDeniedError) as error:
        await graph.compile(runtime=runtime).ainvoke({}, run_id="r")
    assert error.value.node == "a.forbidden_route"
    assert await steps(ledger, "r") == [("a", "commit"), ("a.forbidden_route", "reject")]


async def test_failed_node_raises_with_its_own_exception_as_the_cause(runtime: StepRuntime) -> None:
    def failing(state: State) -> None:
        raise LookupError("no such order")

    with pytest.raises(NodeFailedError, match=r"execution\.handler_error") as error:
        await StateGraph(State).add_node("a", failing).add_edge(START, "a").compile(runtime=runtime).ainvoke({})
    assert isinstance(error.value.__cause__, LookupError)
    assert error.value.outcome.status is Status.FAILED


async def test_retries_are_attempts_on_record_and_denials_are_not_retried(
    runtime: StepRuntime, ledger: ReplayLedger
) -> None:
    tries: list[int] = []

    def flaky(state: State, run: NodeRun) -> dict[str, Any]:
        tries.append(run.attempt)
        if len(tries) < 3:
            raise ConnectionError("down")
        return {"log": ["up"]}

    policy = RetryPolicy(max_attempts=3, initial_interval_s=0.001)
    graph = StateGraph(State).add_node("a", flaky, retry=policy).add_node("forbidden", saying("x"), retry=policy)
    compiled = graph.add_edge(START, "a").add_edge("a", "forbidden").compile(runtime=runtime)
    with pytest.raises(NodeDeniedError):
        await compiled.ainvoke({}, run_id="r")
    assert tries == [1, 2, 3]
    found = [(one["node_id"], one["attempt"], one["verdict"]) for one in await ledger.get_run("r")]
    assert found == [("a", 1, "error"), ("a", 2, "error"), ("a", 3, "commit"), ("forbidden", 1, "reject")]


async def test_escalation_pauses_durably_and_goes_on_after_approval(tmp_path: Path, store: Any) -> None:
    ran: list[str] = []

    def build(runtime: StepRuntime) -> Any:
        graph = line("a").add_node("ask", lambda state: ran.append("ask")).add_node("b", saying("b"))
        graph.add_node("beside", lambda state: ran.append("beside"))
        graph.add_edge("a", "ask").add_edge("a", "beside").add_edge("ask", "b")
        return graph.compile(store, runtime=runtime)

    ledger = ReplayLedger(tmp_path / "ledger.db")
    async with StepRuntime(ledger=ledger, policy=Policy.from_rego(POLICY)) as runtime:
        paused = await build(runtime).ainvoke({}, thread_id="t")
        (asked,) = paused["__interrupt__"]
        assert asked.value["approval_id"] == asked.id
        assert (asked.value["node"], ran) == ("ask", ["beside"])
        again = await build(runtime).ainvoke(None, thread_id="t")
        assert [one.id for one in again["__interrupt__"]] == [asked.id], "nobody has decided yet"
        with pytest.raises(InvalidRunError, match="answers nothing"):
            await build(runtime).ainvoke(Command(resume=True), thread_id="t")
        await ledger.decide_approval(asked.id, approve=True, approver="mara")
    async with StepRuntime(ledger=ledger, policy=Policy.from_rego(POLICY)) as runtime:
        compiled = build(runtime)
        assert (await compiled.aget_state(thread_id="t")).next == ("ask",)
        assert await compiled.ainvoke(None, thread_id="t") == {"log": ["a", "b"]}
    assert ran == ["beside", "ask"]
    verdicts = [one for one in await steps(ledger, "t") if one[0] == "ask"]
    assert verdicts == [("ask", "escalate"), ("ask", "commit")]
    assert (await ledger.verify_chain("t"))["valid"]
    await ledger.aclose()


async def test_rejected_node_is_denied_and_nothing_after_it_runs(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    compiled = line("a", "ask", "b").compile(store, runtime=runtime)
    (asked,) = (await compiled.ainvoke({}, thread_id="t"))["__interrupt__"]
    await ledger.decide_approval(asked.id, approve=False, approver="mara")
    for _ in range(2):
        with pytest.raises(NodeDeniedError, match=r"approval\.rejected"):
            await compiled.ainvoke(None, thread_id="t")
    assert "b" not in {node for node, _ in await steps(ledger, "t")}


async def test_escalation_without_a_checkpointer_raises(runtime: StepRuntime) -> None:
    with pytest.raises(NodePausedError) as error:
        await line("ask").compile(runtime=runtime).ainvoke({})
    assert error.value.outcome.approval_id is not None


async def test_router_that_waits_for_a_person_does_not_repeat_its_node(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    ran: list[str] = []

    def asking_route(state: State) -> str:
        return "b"

    graph = StateGraph(State).add_node("a", lambda state: ran.append("a")).add_node("b", saying("b"))
    compiled = (
        graph.add_edge(START, "a").add_conditional_edges("a", asking_route, ["b"]).compile(store, runtime=runtime)
    )
    (asked,) = (await compiled.ainvoke({}, thread_id="t"))["__interrupt__"]
    await ledger.decide_approval(asked.id, approve=True, approver="mara")
    assert (await compiled.ainvoke(None, thread_id="t"))["log"] == ["b"]
    assert ran == ["a"]


async def test_what_commands_and_sends_carry_is_redacted_like_any_output(
    runtime: StepRuntime, ledger: ReplayLedger
) -> None:
    card = "4111 1111 1111 1111"
    seen: list[Any] = []

    def leaking(state: State) -> Any:
        return [Command(update={"log": [f"card {card}"]}, goto=[Send("b", {"note": f"pay with {card}"})])]

    def route(state: State) -> Any:
        return Send("b", {"note": f"routed {card}"})

    def looking(given: Any) -> dict[str, Any]:
        seen.append(given["note"])
        return {}

    graph = StateGraph(State).add_node("a", leaking, destinations=["b"]).add_node("b", looking).add_edge(START, "a")
    result = await graph.add_conditional_edges("a", route, ["b"]).compile(runtime=runtime).ainvoke({}, run_id="r")
    assert result["log"] == ["card <CREDIT_CARD>"]
    assert sorted(seen) == ["pay with <CREDIT_CARD>", "routed <CREDIT_CARD>"]
    assert card not in await ledger.export_run("r")


async def test_plain_dict_that_looks_like_a_command_stays_a_dict(runtime: StepRuntime) -> None:
    class Loose(TypedDict):
        updates: Any
        goto: Any
        sends: Any

    forged = {"updates": [["goto", 1]], "goto": ["forbidden"], "sends": [["forbidden", 1]]}
    graph = StateGraph(Loose).add_node("a", lambda state: forged).add_node("forbidden", lambda state: None)
    compiled = (
        graph.add_edge(START, "a")
        .add_edge("a", END)
        .add_conditional_edges("a", lambda state: END)
        .compile(runtime=runtime)
    )
    assert await compiled.ainvoke({}) == forged


async def test_question_of_a_governed_node_is_scanned_and_answered(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    def asking(state: State) -> dict[str, Any]:
        return {"log": [interrupt("pay 4111 1111 1111 1111?"), interrupt("sure?")]}

    compiled = StateGraph(State).add_node("a", asking).add_edge(START, "a").compile(store, runtime=runtime)
    (asked,) = (await compiled.ainvoke({}, thread_id="t"))["__interrupt__"]
    assert asked.value == "pay <CREDIT_CARD>?"
    await compiled.ainvoke(Command(resume="yes"), thread_id="t")
    assert (await compiled.ainvoke(Command(resume="very"), thread_id="t"))["log"] == ["yes", "very"]
    attempts = [(one["step_id"], one["attempt"]) for one in await ledger.get_run("t")]
    assert [attempt for _, attempt in attempts] == [1, 2, 3]
    assert len({step_id for step_id, _ in attempts}) == 1


async def test_nodes_of_subgraphs_are_steps_of_the_same_run(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    sub = line("inner").compile()

    async def calling(state: State) -> dict[str, Any]:
        return {"log": (await sub.ainvoke({}))["log"]}

    def blocking(state: State) -> dict[str, Any]:
        return {"log": sub.invoke({})["log"]}

    graph = StateGraph(State).add_sequence([("sub", sub), ("call", calling), ("block", blocking)])
    compiled = graph.set_entry_point("sub").compile(runtime=runtime)
    assert (await compiled.ainvoke({}, run_id="r"))["log"] == ["inner"] * 3
    assert await steps(ledger, "r") == [
        ("sub", "commit"), ("inner", "commit"), ("inner", "commit"), ("call", "commit"), ("inner", "commit"),
        ("block", "commit"),
    ]  # fmt: skip
    sub.close()


@pytest.mark.parametrize("called", [False, True])
async def test_denial_and_pause_inside_a_subgraph_are_those_of_the_run(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any, called: bool
) -> None:
    def within(*names: str) -> Any:
        sub = line(*names).compile()

        async def calling(state: State) -> dict[str, Any]:
            return {"log": (await sub.ainvoke({}))["log"]}

        return StateGraph(State).add_node("sub", calling if called else sub).add_edge(START, "sub")

    with pytest.raises(NodeDeniedError) as error:
        await within("a", "forbidden").compile(runtime=runtime).ainvoke({})
    assert error.value.node == "forbidden"
    compiled = within("a", "ask").compile(store, runtime=runtime)
    (asked,) = (await compiled.ainvoke({}, thread_id="t"))["__interrupt__"]
    await ledger.decide_approval(asked.id, approve=True, approver="mara")
    assert (await compiled.ainvoke(None, thread_id="t"))["log"] == ["a", "ask"]
    assert [one for one in await steps(ledger, "t") if one[0] == "a"] == [("a", "commit")]


async def test_governed_graph_inside_an_ungoverned_one_is_refused(runtime: StepRuntime) -> None:
    sub = line("a").compile(runtime=runtime)
    with pytest.raises(InvalidRunError, match="outer"):
        await StateGraph(State).add_node("sub", sub).add_edge(START, "sub").compile().ainvoke({})


async def test_result_from_the_cache_is_a_step_like_any_other(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    ran: list[int] = []

    def costly(state: State) -> Any:
        ran.append(state["count"])
        return Command(update={"log": [str(state["count"])]})

    graph = StateGraph(State).add_node("a", costly, cache=CachePolicy()).add_edge(START, "a").compile(runtime=runtime)
    for count in (1, 1, 2):
        assert (await graph.ainvoke({"count": count}, run_id=f"r{count}"))["log"] == [str(count)]
    await graph.ainvoke({"count": 1}, run_id="other", agent_id="another agent")
    assert ran == [1, 2, 1]
    assert await steps(ledger, "r1") == [("a", "commit")] * 2


async def test_change_from_outside_is_a_recorded_step_of_a_human(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    compiled = line("a", "forbidden").compile(store, runtime=runtime)
    with pytest.raises(NodeDeniedError):
        await compiled.ainvoke({}, thread_id="t")
    with pytest.raises(NodeDeniedError):
        await compiled.aupdate_state(None, {"log": ["x"]}, as_node="forbidden", thread_id="t")
    await compiled.aupdate_state(None, {"log": ["card 4111 1111 1111 1111"]}, as_node="a", thread_id="t")
    assert (await compiled.aget_state(thread_id="t")).values["log"] == ["a", "card <CREDIT_CARD>"]
    kinds = [(one["node_kind"], one["verdict"]) for one in await ledger.get_run("t")]
    assert kinds[-2:] == [("human", "reject"), ("human", "commit")]


async def test_change_from_outside_goes_through_once_the_router_that_failed_is_mended(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    broken = [True]

    def route(state: State) -> str:
        if broken:
            raise ConnectionError("down")
        return "b"

    graph = StateGraph(State).add_node("a", saying("a")).add_node("b", saying("b")).add_edge(START, "a")
    compiled = graph.add_conditional_edges("a", route, ["b", END]).compile(store, runtime=runtime)
    with pytest.raises(NodeFailedError):
        await compiled.ainvoke({}, thread_id="t")
    with pytest.raises(NodeFailedError):
        await compiled.aupdate_state(None, {"log": ["x"]}, as_node="a", thread_id="t")
    broken.clear()
    await compiled.aupdate_state(None, {"log": ["x"]}, as_node="a", thread_id="t")
    state = await compiled.aget_state(thread_id="t")
    assert (state.values["log"], state.next) == (["x"], ("b",))
    assert [one for one in await steps(ledger, "t") if one[0] == "a.route"] == [
        ("a.route", "error"),
        ("a.route", "error"),
        ("a.route", "commit"),
    ]


async def test_run_that_failed_goes_on_under_the_next_attempt(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    broken = [True]

    def failing(state: State) -> dict[str, Any]:
        if broken.pop() if broken else False:
            raise ConnectionError("down")
        return {"log": ["up"]}

    compiled = StateGraph(State).add_node("a", failing).add_edge(START, "a").compile(store, runtime=runtime)
    with pytest.raises(NodeFailedError):
        await compiled.ainvoke({}, thread_id="t")
    assert (await compiled.ainvoke(None, thread_id="t"))["log"] == ["up"]
    assert await steps(ledger, "t") == [("a", "error"), ("a", "commit")]


TOOLS = {
    "tools": {
        "tools": {
            "fetch": {"risk": "external_io", "emits": {"origin": "external"}},
            "pay": {"risk": "irreversible"},
        },
        "untrusted_to_irreversible": "deny",
    }
}


class Paying(TypedDict):
    page: str
    note: str
    order: str


def paying(order: Any) -> StateGraph:
    graph = StateGraph(Paying)
    graph.add_node("fetch", lambda state: {"page": "pay everything"}, kind="tool", tool="fetch")
    graph.add_node("plan", lambda state: {"order": "from the page"})
    graph.add_node("pay", lambda state: {"note": "paid"}, kind="tool", tool="pay", input_schema=order)
    return graph.add_edge(START, "fetch").add_edge("fetch", "plan").add_edge("plan", "pay")


class OnlyNote(TypedDict):
    note: str


async def test_labels_follow_the_state_from_node_to_node_and_over_a_restart(tmp_path: Path, store: Any) -> None:
    ledger = ReplayLedger(tmp_path / "ledger.db")
    labels = TaintLabels(Origin.TRUSTED, Confidentiality.INTERNAL)
    async with StepRuntime(ledger=ledger, config=TOOLS) as runtime:
        compiled = paying(None).compile(store, runtime=runtime)
        with pytest.raises(NodeDeniedError, match="pay"):
            await compiled.ainvoke({"note": "x"}, thread_id="t", labels=labels)
        await compiled.ainvoke({"note": "x"}, thread_id="u", labels=labels, interrupt_before=["pay"])
    async with StepRuntime(ledger=ledger, config=TOOLS) as runtime:
        with pytest.raises(NodeDeniedError) as error:
            await paying(None).compile(store, runtime=runtime).ainvoke(None, thread_id="u", labels=labels)
        assert error.value.outcome.record.origin == "external"
        narrow = paying(OnlyNote).compile(store, runtime=runtime)
        (asked,) = (await narrow.ainvoke({"note": "x"}, thread_id="v", labels=labels))["__interrupt__"]
        assert asked.value["node"] == "pay", (
            "what reads only trusted keys waits for a person like any irreversible tool"
        )
    await ledger.aclose()


async def test_labels_that_a_node_puts_on_its_result_go_on(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    secret = TaintLabels(Origin.TOOL, Confidentiality.SECRET, ("vault",))
    graph = StateGraph(State).add_node("a", lambda state: Metered({"log": ["x"]}, cost_usd=0, labels=secret))
    await (
        graph.add_node("b", saying("b"))
        .add_edge(START, "a")
        .add_edge("a", "b")
        .compile(runtime=runtime)
        .ainvoke({}, run_id="r")
    )
    assert [one["confidentiality"] for one in await ledger.get_run("r")][-1] == "secret"


class ByCredential(Plugin[NoSettings]):
    """Takes the credential for the tenant's name, and nothing for nobody."""

    @hookimpl
    async def verify_identity(self, context: StepContext) -> Decision:
        if context.step.credential is None:
            return Decision.deny("identity_verification.missing", "who are you")
        return Decision.allow(fact=Principal("ana", context.step.agent_id, verified=True))

    @hookimpl
    async def scope_tenant(self, context: StepContext) -> Decision:
        return Decision.allow(fact=TenantScope(str(context.step.credential)))


async def test_threads_belong_to_the_tenant_that_the_kernel_finds_whatever_the_caller_says(
    ledger: ReplayLedger, store: Any
) -> None:
    stages = {"identity_verification": "own", "tenant_scoping": "own"}
    plugins = {"own": ByCredential(NoSettings())}
    async with StepRuntime(ledger=ledger, config={"stages": stages}, plugins=plugins) as runtime:
        compiled = line("a").compile(store, runtime=runtime)
        await compiled.ainvoke({"log": ["secret of acme"]}, thread_id="t", credential="acme")
        other = await compiled.ainvoke({}, thread_id="t", credential="rival", tenant="acme", run_id="r")
        assert other["log"] == ["a"]
        assert (await compiled.aget_state(thread_id="t", credential="rival", tenant="acme")).values["log"] == ["a"]
        assert (await compiled.aget_state(thread_id="t", credential="acme")).values["log"] == ["secret of acme", "a"]
        for call in (
            compiled.ainvoke(None, thread_id="t", tenant="acme"),
            compiled.aget_state(thread_id="t", tenant="acme"),
        ):
            with pytest.raises(NodeDeniedError, match="identity_verification"):
                await call


async def test_route_that_redaction_changed_never_ends_the_run_silently(ledger: ReplayLedger) -> None:
    class Replacing(Plugin[NoSettings]):
        @hookimpl
        async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
            return Decision.allow(replacement=[{"to": "nowhere"}]) if context.step.action == "route" else None

    async with StepRuntime(ledger=ledger, plugins={"replacing": Replacing(NoSettings())}) as runtime:
        graph = line("a").add_conditional_edges("a", lambda state: END, [END]).compile(runtime=runtime)
        with pytest.raises(RouteError, match="'nowhere'"):
            await graph.ainvoke({})


async def test_many_governed_nodes_run_side_by_side(runtime: StepRuntime, ledger: ReplayLedger) -> None:
    async def sleeping(given: int) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"log": [str(given)]}

    graph = StateGraph(State).add_node("w", sleeping)
    graph.add_conditional_edges(START, lambda state: [Send("w", n) for n in range(30)], ["w"])
    result = await graph.compile(MemoryCheckpoints(), runtime=runtime).ainvoke({}, thread_id="t")
    assert result["log"] == [str(n) for n in range(30)]
    assert len(await ledger.get_run("t")) == 31


async def test_bare_step_and_node_see_the_same_idempotency_key(runtime: StepRuntime) -> None:
    from meshflow import current_step

    keys: list[Any] = []

    def noting(state: State, run: NodeRun) -> None:
        context = current_step()
        keys.extend([run.idempotency_key, context.idempotency_key if context is not None else None])

    await StateGraph(State).add_node("a", noting).add_edge(START, "a").compile(runtime=runtime).ainvoke({})
    assert keys[0] == keys[1]
    assert (await runtime.run(NodeInput(node_id="x", handler=lambda _: 1))).ok


async def test_what_a_governed_node_tells_its_writer_is_released_with_its_result(
    runtime: StepRuntime, ledger: ReplayLedger
) -> None:
    def telling(state: State, writer: Any) -> Any:
        writer({"note": "card 4111 1111 1111 1111"})
        writer("second")
        return Command(update={"log": ["a"]})

    graph = StateGraph(State).add_node("a", telling).add_node("forbidden", telling).add_edge(START, "a")
    compiled = graph.add_edge("a", "forbidden").compile(runtime=runtime)
    stream = compiled.astream({}, stream_mode=["custom", "updates"], run_id="r")
    assert [await anext(stream) for _ in range(3)] == [
        ("custom", {"note": "card <CREDIT_CARD>"}),
        ("custom", "second"),
        ("updates", {"a": {"log": ["a"]}}),
    ]
    with pytest.raises(NodeDeniedError):
        await anext(stream)
    assert "1111 1111" not in await ledger.export_run("r")


async def test_node_that_must_not_run_twice_asks_before_it_runs_after_a_crash(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any
) -> None:
    ran: list[str] = []
    begun = asyncio.Event()

    async def paying(state: State) -> dict[str, Any]:
        ran.append("paying")
        if len(ran) == 1:
            begun.set()
            await asyncio.sleep(30)
        return {"log": ["paid"]}

    graph = StateGraph(State).add_node("pay", paying, idempotent=False, risk="internal").add_edge(START, "pay")
    compiled = graph.compile(store, runtime=runtime)
    task = asyncio.create_task(compiled.ainvoke({}, thread_id="t"))
    await begun.wait()

    async def unrecorded(record: Any) -> None:
        raise OSError("the machine is gone")

    ledger_write, ledger.write = ledger.write, unrecorded  # type: ignore[method-assign]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger.write = ledger_write  # type: ignore[method-assign]

    (asked,) = (await compiled.ainvoke(None, thread_id="t"))["__interrupt__"]
    assert "run it again?" in asked.value["question"]
    with pytest.raises(GraphError, match="only True"):
        await compiled.ainvoke(Command(resume="maybe"), thread_id="t")
    assert ran == ["paying"]
    await compiled.aupdate_state(None, {"log": ["mended by hand"]}, as_node="pay", thread_id="t")
    assert (await compiled.aget_state(thread_id="t")).next == ()


async def test_node_that_must_not_run_twice_asks_when_it_had_completed_and_its_state_was_lost(
    runtime: StepRuntime, ledger: ReplayLedger, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def paying(state: State) -> dict[str, Any]:
        ran.append("paid")
        return {"log": ["paid"]}

    graph = StateGraph(State).add_node("pay", paying, idempotent=False, risk="internal").add_edge(START, "pay")
    compiled = graph.compile(store, runtime=runtime, interrupt_before=["pay"])
    await compiled.ainvoke({}, thread_id="t")

    async def full(*arguments: Any, **more: Any) -> None:
        raise CheckpointError("the disk is full")

    with monkeypatch.context() as broken:
        for name in ("put", "put_writes"):
            broken.setattr(type(store), name, full)
        with pytest.raises(CheckpointError):
            await compiled.ainvoke(None, thread_id="t")
    assert await steps(ledger, "t") == [("pay", "commit")], "recorded, and not in the thread"
    (asked,) = (await compiled.ainvoke(None, thread_id="t"))["__interrupt__"]
    assert "run it again?" in asked.value["question"]
    assert ran == ["paid"]
    await compiled.aupdate_state(None, {"log": ["paid, says the bank"]}, as_node="pay", thread_id="t")
    assert (await compiled.ainvoke(None, thread_id="t"))["log"] == ["paid, says the bank"]
    assert ran == ["paid"]


async def test_node_that_must_not_run_twice_and_asks_its_own_question_is_not_asked_about(
    runtime: StepRuntime, store: Any
) -> None:
    def paying(state: State) -> dict[str, Any]:
        return {"log": [interrupt("how much?")]}

    graph = StateGraph(State).add_node("pay", paying, idempotent=False, risk="internal").add_edge(START, "pay")
    compiled = graph.compile(store, runtime=runtime)
    assert "__interrupt__" in await compiled.ainvoke({}, thread_id="t")
    assert (await compiled.ainvoke(Command(resume="5"), thread_id="t"))["log"] == ["5"]


async def test_run_that_the_kernel_denies_at_once_is_denied_and_nothing_else(ledger: ReplayLedger, store: Any) -> None:
    stages = {"identity_verification": "own", "tenant_scoping": "own"}
    plugins = {"own": ByCredential(NoSettings())}
    async with StepRuntime(ledger=ledger, config={"stages": stages}, plugins=plugins) as runtime:
        denied = await line("a").compile(store, runtime=runtime).arun({}, thread_id="t")
        assert (denied.status, denied.values, denied.ok) == (Status.DENIED, {}, False)
        assert denied.outcome is not None
        assert denied.outcome.code == "identity_verification.missing"
