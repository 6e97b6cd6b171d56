"""The runtime around the pipeline: shadows, wrappers, explain, reload, tenants, blocking callers."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pydantic import SecretStr

from meshflow import ConfigError, Decision, NodeInput, PluginError, Status, StepDeniedError
from meshflow.errors import ContractError, StageConflictError
from meshflow.facts import RiskTier
from meshflow.plugin import NoSettings, Plugin, Purpose, Settings, hookimpl

STEP = NodeInput(node_id="n", input="x", handler=lambda value: value + "!")


async def test_a_shadow_denial_does_not_stop_the_step(kit):
    shade = kit.EveryStage({"guard_input": Decision.deny("input_guardrails.shade", "would not")})
    runtime = kit.runtime(stages={"input_guardrails": {"also_shadow": ["shade"]}}, beside={"shade": shade})
    outcome = await runtime.run(STEP)
    assert outcome.ok
    (result,) = [one for one in outcome.results if one.plugin == "shade"]
    assert (result.code, result.enforced) == ("input_guardrails.shade", False)


@pytest.mark.parametrize(
    ("stage", "hook"), [("input_guardrails", "guard_input"), ("output_guardrails", "guard_output")]
)
async def test_a_shadow_is_asked_although_its_stage_denies(kit, stage, hook):
    shade = kit.EveryStage({hook: Decision.allow()})
    runtime = kit.runtime(
        {hook: Decision.deny(f"{stage}.no", "no")}, stages={stage: {"also_shadow": ["shade"]}}, beside={"shade": shade}
    )
    outcome = await runtime.run(STEP)
    assert outcome.code == f"{stage}.no"
    assert [one.effect.value for one in outcome.results if one.plugin == "shade"] == ["allow"]


async def test_a_stage_in_shadow_mode_neither_denies_nor_replaces(kit):
    runtime = kit.runtime(
        {"guard_input": Decision.allow(replacement="changed")}, stages={"input_guardrails": {"mode": "shadow"}}
    )
    assert (await runtime.run(STEP)).output == "x!"


async def test_a_shadow_sees_a_purpose_that_forbids_effects(kit):
    purposes = []
    shade = kit.EveryStage({"limit_rate": lambda context: purposes.append(context.purpose)})
    runtime = kit.runtime(stages={"rate_limiting": {"also_shadow": ["shade"]}}, beside={"shade": shade})
    await runtime.run(STEP)
    assert purposes == [Purpose.SHADOW]


async def test_a_shadows_fact_is_not_used(kit):
    shade = kit.EveryStage({"classify_risk": Decision.allow(fact=RiskTier.IRREVERSIBLE)})
    runtime = kit.runtime(stages={"risk_classification": {"also_shadow": ["shade"]}}, beside={"shade": shade})
    assert (await runtime.run(STEP)).record.risk == "internal"


class Wrapper(Plugin[NoSettings]):
    """Wraps every stage, and may lie about its answer."""

    def __init__(self, lie=None):
        super().__init__(NoSettings())
        self.seen, self.lie = [], lie

    @hookimpl
    def wrap_stage(self, stage, call_next):
        async def around(*args):
            self.seen.append(stage.name)
            answer = await call_next(*args)
            return self.lie if self.lie is not None and stage.name == "policy_evaluation" else answer

        return around

    @hookimpl
    async def record_sla(self, context, record):
        return None


async def test_a_wrapper_is_called_around_every_provider(kit):
    wrapper = Wrapper()
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "wrap"]}}, beside={"wrap": wrapper})
    assert (await runtime.run(STEP)).ok
    assert wrapper.seen.count("policy_evaluation") == 1
    assert "execution" in wrapper.seen
    assert "audit_ledger" in wrapper.seen


@pytest.mark.parametrize("lie", [Decision.allow(), True], ids=["an equal decision", "something else"])
async def test_a_wrapper_that_does_not_hand_on_the_identical_decision_denies(kit, lie):
    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "wrap"]}}, beside={"wrap": Wrapper(lie)})
    assert (await runtime.run(STEP)).code == "policy_evaluation.invalid_decision"


async def test_explain_collects_every_answer_past_a_denial_and_changes_nothing(kit):
    runtime = kit.runtime(
        {
            "limit_rate": Decision.deny("rate_limiting.exceeded", "wait"),
            "evaluate_policy": Decision.deny("policy_evaluation.denied", "no"),
        }
    )
    explanation = await runtime.explain(STEP)
    assert (explanation.status, explanation.code) == (Status.DENIED, "rate_limiting.exceeded")
    assert {one.code for one in explanation.results} >= {"rate_limiting.exceeded", "policy_evaluation.denied"}
    assert explanation.results[-1].stage == "tool_permission"
    assert kit.plugin.calls == []
    assert kit.plugin.records == []


async def test_explain_tells_a_denial_from_silence(kit):
    runtime = kit.runtime({"evaluate_policy": Decision.deny("policy_evaluation.denied", "no")})
    codes = [one.code for one in (await runtime.explain(STEP)).results if one.code]
    assert codes == ["policy_evaluation.denied"]


async def test_reload_swaps_at_once_and_steps_in_flight_keep_their_pipeline(kit):
    going, go_on = asyncio.Event(), asyncio.Event()

    async def waits(value):
        going.set()
        await go_on.wait()
        return value

    runtime = kit.runtime()
    before = runtime.fingerprint
    task = asyncio.create_task(runtime.run(NodeInput(node_id="slow", handler=waits)))
    await going.wait()
    stages = {stage: {"use": "every"} for stage in ("policy_evaluation",)}
    config = {"stages": {**{one: dict(two.model_dump()) for one, two in runtime.config.stages.items()}, **stages}}
    config["stages"]["input_guardrails"]["mode"] = "shadow"
    after = await runtime.reload(config)
    assert after != before
    assert (await runtime.run(STEP)).record.fingerprint == after
    go_on.set()
    assert (await task).record.fingerprint == before


async def test_a_reload_that_fails_keeps_the_running_pipeline(kit):
    runtime = kit.runtime()
    before = runtime.fingerprint
    with pytest.raises(ConfigError, match="nobody"):
        await runtime.reload({"stages": {"policy_evaluation": {"use": "nobody"}}})
    assert runtime.fingerprint == before
    assert (await runtime.run(STEP)).ok


def test_a_blocking_call_works_without_a_loop(kit):
    runtime = kit.runtime()
    assert runtime.run_sync(STEP).output == "x!"
    runtime.close()


async def test_a_blocking_call_works_where_a_loop_runs(kit):
    assert kit.runtime().run_sync(STEP).output == "x!"


def test_a_blocking_call_from_the_runtimes_own_loop_raises_rather_than_hang(kit):
    runtime = kit.runtime()

    async def nested(value):
        runtime.run_sync(STEP)

    outcome = runtime.run_sync(NodeInput(node_id="outer", handler=nested))
    assert outcome.status is Status.FAILED
    assert ContractError.__name__ in outcome.reason
    runtime.close()


def test_one_runtime_serves_many_threads_and_loops(kit):
    runtime, outcomes = kit.runtime(), []

    def work():
        async def steps():
            return [await runtime.run(STEP) for _ in range(20)]

        outcomes.extend(asyncio.run(steps()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 80
    assert all(outcome.ok for outcome in outcomes)
    runtime.close()


def test_a_governed_function_keeps_its_signature_and_stays_sync(kit):
    runtime = kit.runtime()

    @runtime.govern(kind="tool", tool="add")
    def add(left: int, right: int = 2, *rest: int, **more: int) -> int:
        return left + right + sum(rest) + sum(more.values())

    assert add(1) == 3
    assert add(1, 2, 3, four=4) == 10
    assert kit.plugin.records[0].input == {"left": 1, "right": 2, "rest": (), "more": {}}
    assert kit.plugin.records[0].tool == "add"
    runtime.close()


async def test_a_governed_coroutine_function_raises_when_it_is_denied(kit):
    runtime = kit.runtime({"evaluate_policy": Decision.deny("policy_evaluation.denied", "no")})

    async def send(to):
        return to

    with pytest.raises(StepDeniedError, match=r"policy_evaluation\.denied") as caught:
        await runtime.govern(send)("bob")
    assert caught.value.outcome.status is Status.DENIED


async def test_a_governed_function_gets_the_arguments_that_the_gates_left(kit):
    runtime = kit.runtime({"guard_input": Decision.allow(replacement={"to": "***"})})

    async def send(to):
        return to

    assert await runtime.govern(send)("bob") == "***"


async def test_a_governed_generator_streams(kit):
    async def count(upto):
        for number in range(upto):
            yield {"n": number}

    parts = [part async for part in kit.runtime().govern(count)(3)]
    assert parts == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_session_puts_its_steps_into_one_run(kit):
    session = kit.runtime().session(agent_id="a-7", metadata={"desk": 1})
    first, second = await session.run(STEP), await session.run(STEP)
    assert first.run_id == second.run_id == session.run_id
    assert first.step_id != second.step_id
    assert first.record.metadata == {"desk": 1}


def test_an_unknown_session_field_is_refused(kit):
    with pytest.raises(ConfigError, match="agent_name"):
        kit.runtime().session(agent_name="x")


async def test_two_in_process_plugins_for_one_stage_need_a_setting(kit):
    with pytest.raises(StageConflictError, match=r"stages\.rate_limiting\.use"):
        kit.runtime(stages={"rate_limiting": {"use": None}}, beside={"other": kit.EveryStage()})


async def test_a_stage_cannot_be_served_by_a_plugin_without_its_hook(kit):
    with pytest.raises(ConfigError, match="has no hook evaluate_policy"):
        kit.runtime(stages={"policy_evaluation": {"use": "wrap"}}, beside={"wrap": Wrapper()})


class Unmarked(Plugin[NoSettings]):
    async def guard_input(self, context):
        return None


class KeywordOnly(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, *, context):
        return None


class Misspelt(Plugin[NoSettings]):
    @hookimpl
    async def gaurd_input(self, context):
        return None


class WrongArgument(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, ctx):
        return None


class Defaulted(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, context=None):
        return None


class Generator(Plugin[NoSettings]):
    @hookimpl
    async def guard_input(self, context):
        yield None


class First(Plugin[NoSettings]):
    @hookimpl(tryfirst=True)
    async def guard_input(self, context):
        return None


class Empty(Plugin[NoSettings]):
    """Nothing."""


@pytest.mark.parametrize("plugin", [Unmarked, KeywordOnly, Misspelt, WrongArgument, Defaulted, Generator, First, Empty])
def test_a_plugin_that_would_fail_or_be_ignored_at_run_time_is_refused(kit, plugin):
    with pytest.raises(PluginError, match="mine"):
        kit.runtime(stages={"input_guardrails": {"use": ["every", "mine"]}}, beside={"mine": plugin(NoSettings())})


def test_a_class_instead_of_an_instance_is_refused(kit):
    with pytest.raises(PluginError, match="instance"):
        kit.runtime(stages={"input_guardrails": {"use": ["every", "mine"]}}, beside={"mine": Wrapper})


async def test_a_hook_may_declare_fewer_arguments(kit):
    class Terse(Plugin[NoSettings]):
        @hookimpl
        async def guard_output(self, output):
            return Decision.allow(replacement=output.upper())

    runtime = kit.runtime(
        stages={"output_guardrails": {"use": ["every", "terse"]}}, beside={"terse": Terse(NoSettings())}
    )
    assert (await runtime.run(STEP)).output == "X!"


async def test_plugins_start_once_and_shut_down(kit):
    class Counts(Wrapper):
        started = stopped = 0

        @hookimpl
        async def startup(self):
            Counts.started += 1

        @hookimpl
        async def shutdown(self):
            Counts.stopped += 1

    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "counts"]}}, beside={"counts": Counts()})
    await asyncio.gather(*(runtime.run(STEP) for _ in range(10)))
    await runtime.aclose()
    assert (Counts.started, Counts.stopped) == (1, 1)


async def test_a_plugin_that_cannot_start_stops_the_runtime_with_its_name(kit):
    class Fails(Wrapper):
        @hookimpl
        async def startup(self):
            raise OSError("no such socket")

    runtime = kit.runtime(stages={"sla_record": {"use": ["every", "fails"]}}, beside={"fails": Fails()})
    with pytest.raises(PluginError, match="fails raised OSError"):
        await runtime.run(STEP)


async def test_a_tenants_own_provider_joins_what_the_base_enforces(kit):
    extra = kit.EveryStage({"guard_input": Decision.deny("input_guardrails.tenant", "not here")})
    runtime = kit.runtime(
        beside={"extra": extra}, tenants={"acme": {"stages": {"input_guardrails": {"use": ["extra"]}}}}
    )
    outcome = await runtime.run(STEP)
    assert outcome.code == "input_guardrails.tenant"
    assert outcome.record.fingerprint != runtime.fingerprint
    asked = [one.plugin for one in outcome.results if one.stage == "input_guardrails"]
    assert asked == ["every", "extra"]


async def test_a_tenant_cannot_lower_a_risk_tier(kit):
    lower = kit.EveryStage({"classify_risk": Decision.allow(fact=RiskTier.READ_ONLY)})
    runtime = kit.runtime(
        beside={"lower": lower}, tenants={"acme": {"stages": {"risk_classification": {"use": ["lower"]}}}}
    )
    assert (await runtime.run(STEP)).record.risk == "internal"


async def test_other_tenants_keep_the_base_pipeline(kit):
    extra = kit.EveryStage({"guard_input": Decision.deny("input_guardrails.tenant", "not here")})
    runtime = kit.runtime(
        beside={"extra": extra}, tenants={"umbrella": {"stages": {"input_guardrails": {"use": ["extra"]}}}}
    )
    assert (await runtime.run(STEP)).ok


class Keyed(Settings):
    """Settings with secrets at two depths."""

    key: SecretStr
    more: dict[str, SecretStr]


@pytest.mark.parametrize("change", [{"key": "bbbb"}, {"more": {"a": "2"}}])
async def test_another_secret_is_another_setting(kit, change):
    class Holder(Plugin[Keyed]):
        @hookimpl
        async def record_sla(self, context, record):
            pass

    def fingerprint(**settings):
        holder = Holder(Keyed(**{"key": "aaaa", "more": {"a": "1"}} | settings))
        return kit.runtime(stages={"sla_record": {"use": ["every", "holder"]}}, beside={"holder": holder}).fingerprint

    assert fingerprint() == fingerprint()
    assert fingerprint() != fingerprint(**change)
