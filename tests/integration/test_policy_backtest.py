"""Backtests over ledgers that real runtimes wrote: what flips, what is undecidable, and nothing guessed."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import orjson
import pytest

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.decision import Decision, Effect
from meshflow.facts import Findings, Principal
from meshflow.plugin import Plugin, Settings, StepContext, hookimpl
from meshflow.policy import ENTRY_POINTS, Bundle, Policy, PolicyAnswer, PolicyFailure, shipped_bundle
from meshflow.policy.asked import KEY, asked_of, document_of
from meshflow.policy.backtest import Backtest, Candidate, Report
from meshflow.policy.backtest.html import html_page
from meshflow.policy.engine import COMPLIANCE, OUTPUT, POLICY, TOOLS
from meshflow.record import StageResult, StepRecord

SOAK = os.environ.get("MESHFLOW_SOAK") == "full"
HEAD = "package meshflow.policy\n\n"
OLD = HEAD + 'decision := {"allow": true}\n'


def candidate(rules: str, data: dict[str, Any] | None = None) -> Candidate:
    return Candidate(Policy.from_rego(rules if rules.startswith("package") else HEAD + rules, data).bundle)


async def judged(ledger: ReplayLedger, bundle: Candidate, **more: Any) -> Report:
    backtest = Backtest(bundle, **more)
    for run in await ledger.list_runs():
        async for step in ledger.iter_run(run):
            if not step["inherited"]:
                backtest.judge(step)
    return backtest.report


class Spy:
    """An engine that allows, and remembers every document as it was sent."""

    name, version, bundle_digest = "spy", "1", "d" * 64

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def has(self, entry_point: str) -> bool:
        return True

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        sent = orjson.loads(orjson.dumps(document, default=dict))
        stream = sent.get("stream")
        if stream is None or stream["final"]:
            self.seen[sent["step"]["step_id"], sent["stage"]] = sent
        escalate = entry_point == TOOLS.rule and sent["tool"] == "refund" and sent["approval"] is None
        return PolicyAnswer(True, escalate=escalate)


async def _parts(_: Any) -> AsyncIterator[str]:
    for part in ("one ", "two"):
        yield part


async def test_the_record_gives_back_every_document_that_was_not_redacted() -> None:
    spy = Spy()
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=spy) as runtime:
        for number, step in enumerate(
            (
                {"kind": "tool", "tool": "look_up", "input": {"id": 7, "deep": [{"a": None}, 1.5]}},
                {"input": "plain text", "metadata": {"purpose": "test", "n": 3}},
                {"kind": "model", "input": ["x"], "action": "ask", "estimate_usd": "0.25", "estimate_tokens": 5},
                {"input": 1, "risk": "external_io", "idempotent": True, "tenant": None},
            )
        ):
            outcome = await runtime.run(
                NodeInput(node_id="n", step_id=f"s{number}", run_id="r", handler=lambda v: [v], **step)
            )
            assert outcome.ok, outcome.reason
        tool = {"node_id": "n", "run_id": "r", "step_id": "t", "kind": "tool", "tool": "refund", "input": {"a": 1}}
        paused = await runtime.run(NodeInput(**tool, handler=str))
        await ledger.decide_approval(str(paused.approval_id), approve=True, approver="bo")
        assert (await runtime.run(NodeInput(**tool, handler=str, resume=True))).ok
        async for _ in runtime.stream(NodeInput(node_id="m", run_id="r", step_id="u", input="x", handler=_parts)):
            pass
        compared = 0
        async for step in ledger.iter_run("r"):
            for result in step["stages"]:
                asked = result["evidence"].get(KEY) if result["plugin"] == "rego" else None
                stream = (asked or {}).get("stream")
                if (
                    asked is None
                    or (step["attempt"] == 1 and step["step_id"] == "t")
                    or (stream and not stream["final"])
                ):
                    continue
                sent = spy.seen[step["step_id"], result["stage"]]
                assert document_of(step, result["stage"], asked) == sent
                compared += 1
        assert compared >= 4 * 6


LARGE = """decision := {"allow": count(d) == 0, "reasons": d}

d contains {"code": "large", "rule": "shop.large"} if {
	input.tool == "refund"
	input.arguments.cents > 200
}
"""


async def test_flips_are_counted_by_rule_agent_tool_and_tenant() -> None:
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD)) as runtime:
        for number in range(6):
            tool, value = ("refund" if number % 2 else "look_up"), {"cents": number * 100}
            step = {"kind": "tool", "tool": tool, "input": value, "agent_id": f"agent-{number % 3}"}
            await runtime.run(NodeInput(node_id="pay", run_id=f"r{number}", handler=lambda value: value, **step))
        report = await judged(ledger, candidate(LARGE))
    assert (report.decisions, report.same, report.flips, report.looser, report.undecidable) == (6, 4, 2, 0, 0)
    found = report.to_dict()
    assert found["kinds"] == [{"key": "allow to deny", "total": 2, "kinds": {"policy_evaluation": 2}}]
    assert found["by"]["rule"] == [{"key": "+ shop.large", "total": 2, "kinds": {"allow to deny": 2}}]
    assert found["by"]["tool"] == [{"key": "refund", "total": 2, "kinds": {"allow to deny": 2}}]
    assert {row["key"] for row in found["by"]["agent"]} == {"agent-0", "agent-2"}
    (example, _) = found["examples"]["flip"][0]["changes"]
    assert example["run_id"] in ("r3", "r5")
    assert (example["step_index"], example["then"], example["now"]) == (0, "allow", "deny")


async def test_other_reasons_looser_effects_and_missing_entry_points_are_told_apart() -> None:
    old = {
        "p.rego": HEAD + 'decision := {"allow": false, "reasons": [{"code": "old"}]}',
        "t.rego": 'package meshflow.tools\ndecision := {"allow": true, "escalate": true, "reasons": [{"code": "ask"}]}',
    }
    async with ReplayLedger(":memory:") as ledger:
        async with StepRuntime(ledger=ledger, policy=Policy.from_rego(old)) as runtime:
            await runtime.run(NodeInput(node_id="a", run_id="r", input=1, handler=str))
        async with StepRuntime(ledger=ledger, policy=Policy.from_rego({**old, "p.rego": OLD})) as runtime:
            await runtime.run(NodeInput(node_id="b", run_id="r", input=1, handler=str))
        same = await judged(ledger, candidate('decision := {"allow": false, "reasons": [{"code": "new"}]}'))
        assert (same.decisions, same.reasons, same.flips) == (3, 1, 2)
        assert {row["key"] for row in same.kinds.rows()} == {"allow to deny", "escalate to abstain"}
        looser = await judged(ledger, candidate('decision := {"allow": true}'))
        assert {row["key"] for row in looser.kinds.rows()} == {"deny to allow", "escalate to abstain"}
        assert looser.looser == 2


async def test_a_failure_then_or_now_is_a_decision_like_any_other() -> None:
    async with ReplayLedger(":memory:") as ledger:
        broken = Policy.from_rego(HEAD + 'decision := {"allow": true} if input.nothing')
        async with StepRuntime(ledger=ledger, policy=broken) as runtime:
            await runtime.run(NodeInput(node_id="a", run_id="r", input=1, handler=str))
        report = await judged(ledger, candidate('decision := {"allow": to_number(input.node.id) == 1}'))
    assert report.flips == 0
    assert [row["key"] for row in report.by["rule"].rows()] == ["+ (engine_error)", "- (undefined)"]


CARD = "4111 1111 1111 1111"


async def test_what_was_masked_is_undecidable_only_where_the_bundle_looks_at_it() -> None:
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD)) as runtime:
        await runtime.run(
            NodeInput(
                node_id="a", run_id="r", kind="tool", tool="pay", input={"card": CARD, "cents": 5}, handler=lambda v: v
            )
        )
        looks = await judged(ledger, candidate(f'decision := {{"allow": input.arguments.card != "{CARD}"}}'))
        whole = await judged(ledger, candidate('decision := {"allow": count([1 | walk(input, [_, _])]) > 0}'))
        beside = await judged(ledger, candidate('decision := {"allow": input.arguments.cents > 10}'))
        by_name = await judged(
            ledger,
            candidate(
                'decision := {"allow": count(b) == 0}\n'
                'b contains 1 if {\n\tsome k in ["cents"]\n\tinput.arguments[k] > 1\n}'
            ),
        )
    assert (looks.undecidable, looks.flips, looks.same) == (1, 0, 0)
    assert looks.why.rows()[0]["key"] == "arguments is redacted"
    assert whole.undecidable == 1
    assert (beside.undecidable, beside.flips) == (0, 1)
    assert (by_name.undecidable, by_name.flips) == (0, 1)


async def test_stage_11_saw_the_masked_text_so_it_is_decidable_there() -> None:
    rules = {
        "p.rego": OLD,
        "t.rego": 'package meshflow.tools\ndecision := {"allow": contains(input.arguments.text, "<")}',
    }
    async with (
        ReplayLedger(":memory:") as ledger,
        StepRuntime(ledger=ledger, policy=Policy.from_rego(rules)) as runtime,
    ):
        step = {"node_id": "a", "run_id": "r", "kind": "tool", "tool": "look_up", "input": {"text": f"card {CARD}"}}
        assert (await runtime.run(NodeInput(**step, handler=lambda v: v))).ok
        report = await judged(ledger, candidate(OLD + "# 2", None))
        again = await judged(ledger, Candidate(Policy.from_rego(rules).bundle))
    assert report.flips == 1  # the candidate has no entry point there
    assert (again.same, again.undecidable) == (2, 0)


class Rewriting(Plugin[Settings]):
    """Writes something else in place of what it is shown."""

    settings_type = Settings

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision:
        return Decision.allow(replacement="tidied") if output == "raw" else Decision.allow()

    @hookimpl
    async def apply_compliance_profile(self, context: StepContext) -> Decision:
        return Decision.allow(replacement={"cents": 1})


class Scanner(Plugin[Settings]):
    """A scanner of another make."""

    settings_type = Settings

    @hookimpl
    async def scan_sensitive_data(self, context: StepContext) -> Decision:
        changed = orjson.loads(orjson.dumps(dict(context.input)).replace(b"Ana", b"[somebody]"))
        return Decision.allow(fact=Findings(()), replacement=changed)


@pytest.mark.parametrize("last", ["rego", "other"])
async def test_an_output_that_was_replaced_behind_the_policy_is_undecidable(last: str) -> None:
    rules = {"p.rego": OLD, "o.rego": 'package meshflow.output\ndecision := {"allow": input.output != "secret"}'}
    order = ["other", "rego"] if last == "rego" else ["rego", "other"]
    config = {"version": 1, "stages": {"output_guardrails": {"use": order}}}
    plugins = {"other": Rewriting(Settings())}
    policy = Policy.from_rego(rules)
    async with (
        ReplayLedger(":memory:") as ledger,
        StepRuntime(ledger=ledger, policy=policy, config=config, plugins=plugins) as runtime,
    ):
        assert (await runtime.run(NodeInput(node_id="a", run_id="r", input=1, handler=lambda _: "raw"))).ok
        report = await judged(ledger, Candidate(policy.bundle))
    assert (report.same, report.undecidable) == ((2, 0) if last == "rego" else (1, 1))
    assert [row["key"] for row in report.why.rows()] == ([] if last == "rego" else ["output is replaced"])


async def test_an_input_that_was_replaced_behind_the_policy_at_any_gate_is_undecidable() -> None:
    config = {"version": 1, "stages": {"compliance_profile": "other"}}
    plugins = {"other": Rewriting(Settings())}
    async with (
        ReplayLedger(":memory:") as ledger,
        StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD), config=config, plugins=plugins) as runtime,
    ):
        assert (await runtime.run(NodeInput(node_id="a", run_id="r", input={"cents": 900}, handler=str))).ok
        report = await judged(ledger, candidate('decision := {"allow": input.input.cents < 500}'))
    assert (report.same, report.flips) == (0, 0)
    assert report.why.rows()[0]["key"] == "input is replaced"


async def test_a_scanner_of_another_make_leaves_no_text_to_rely_on() -> None:
    config = {"version": 1, "stages": {"sensitive_data_scan": {"use": ["other"]}}}
    plugins = {"other": Scanner(Settings())}
    async with (
        ReplayLedger(":memory:") as ledger,
        StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD), config=config, plugins=plugins) as runtime,
    ):
        assert (await runtime.run(NodeInput(node_id="a", run_id="r", input={"to": "Ana"}, handler=str))).ok
        text = await judged(ledger, candidate('decision := {"allow": input.input.to != "Ana"}'))
        blind = await judged(ledger, candidate('decision := {"allow": input.node.id == "a"}'))
    assert (text.undecidable, text.same) == (1, 0)
    assert blind.same == 1


async def test_what_was_let_through_beside_what_was_masked_is_undecidable() -> None:
    rules = {
        "p.rego": OLD,
        "t.rego": 'package meshflow.tools\ndecision := {"allow": contains(input.input.text, "bo@example.com")}',
    }
    config = {"version": 1, "plugins": {"presidio": {"entities": {"EMAIL_ADDRESS": "allow", "CREDIT_CARD": "mask"}}}}
    policy = Policy.from_rego(rules)
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=policy, config=config) as runtime:
        given = {"text": f"bo@example.com pays by {CARD}"}
        assert (await runtime.run(NodeInput(node_id="a", run_id="r", input=given, handler=str))).ok
        report = await judged(ledger, Candidate(policy.bundle))
    assert (report.same, report.flips, report.undecidable) == (1, 0, 1)


async def test_a_duty_that_is_dropped_is_a_looser_decision() -> None:
    duty = {"name": "mask_entities", "parameters": {"entities": ["EMAIL_ADDRESS"]}}

    def rules(duties: list[dict[str, Any]]) -> str:
        return f'decision := {{"allow": true, "obligations": {orjson.dumps(duties).decode()}}}'

    policy = Policy.from_rego(HEAD + rules([duty]))
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=policy) as runtime:
        assert (await runtime.run(NodeInput(node_id="a", run_id="r", input=1, handler=str))).ok
        same = await judged(ledger, candidate(rules([duty])))
        none = await judged(ledger, candidate(rules([])))
        fewer = await judged(ledger, candidate(rules([{**duty, "parameters": {"entities": []}}])))
        more = await judged(ledger, candidate(rules([duty, {"name": "log_full", "parameters": {}}])))
    assert (same.same, same.flips) == (1, 0)
    for report, looser, keys in (
        (none, 1, ["- duty mask_entities"]),
        (fewer, 1, ["+ duty mask_entities", "- duty mask_entities"]),
        (more, 0, ["+ duty log_full"]),
    ):
        assert (report.flips, report.looser) == (1, looser)
        assert report.kinds.rows()[0]["key"] == "allow with other duties"
        assert [row["key"] for row in report.by["rule"].rows()] == keys


async def test_an_old_record_that_cannot_tell_its_duties_is_no_flip() -> None:
    duty = {"name": "mask_entities", "parameters": {"entities": ["EMAIL_ADDRESS"]}}
    rules = f'decision := {{"allow": true, "obligations": {orjson.dumps([duty]).decode()}}}'
    policy = Policy.from_rego(HEAD + rules)
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=policy) as runtime:
        assert (await runtime.run(NodeInput(node_id="a", run_id="r", input=1, handler=str))).ok
        (step,) = [one async for one in ledger.iter_run("r")]
    (result,) = (one for one in step["stages"] if KEY in one["evidence"])
    assert result["evidence"][KEY]["v"] == 2
    bundles = {"asks": candidate(rules), "none": candidate(OLD), "denies": candidate('decision := {"allow": false}')}

    def counts(name: str) -> tuple[int, int, int]:
        backtest = Backtest(bundles[name])
        backtest.judge(step)
        return backtest.report.same, backtest.report.flips, backtest.report.undecidable

    result["evidence"][KEY]["v"] = 1  # the first of them named duties already
    assert (counts("asks"), counts("none")) == ((1, 0, 0), (0, 1, 0))
    del result["evidence"]["obligations"]
    assert [counts(name) for name in bundles] == [(0, 0, 1), (1, 0, 0), (0, 1, 0)]
    result["evidence"][KEY]["v"] = 3
    assert [counts(name) for name in bundles] == [(0, 0, 1)] * 3


class Silent(Spy):
    """An engine that cannot be reached."""

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        return PolicyFailure("server_timeout", "the OPA server did not answer in time")


async def test_what_no_bundle_decided_is_no_flip() -> None:
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Silent()) as runtime:
        assert not (await runtime.run(NodeInput(node_id="a", run_id="r", input=1, handler=str))).ok
        report = await judged(ledger, candidate('decision := {"allow": true}'))
    assert (report.flips, report.looser, report.undecidable) == (0, 0, 1)
    assert report.why.rows()[0]["key"] == "no bundle decided: server_timeout"


async def test_a_number_that_no_engine_takes_ends_no_backtest() -> None:
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Spy()) as runtime:
        await runtime.run(NodeInput(node_id="a", run_id="r", input={"n": 2**70}, handler=str))
        report = await judged(ledger, candidate('decision := {"allow": input.input.n < 5}'))
    assert report.decisions == report.undecidable + report.flips > 0


async def test_what_was_erased_is_undecidable_and_said_so() -> None:
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD)) as runtime:
        for run in ("kept", "gone", "nameless"):
            await runtime.run(NodeInput(node_id="a", run_id=run, input={"x": 1}, handler=str))
        await ledger.delete_run("gone")
        await ledger.anonymize_run("nameless", fields=["principal"])
        report = await judged(ledger, candidate('decision := {"allow": input.principal.subject != ""}'))
        blind = await judged(ledger, candidate('decision := {"allow": input.node.id == "a"}'))
    assert (report.decisions, report.same, report.undecidable) == (2, 1, 1)
    assert report.why.rows()[0]["key"] == "principal is erased"
    assert (blind.same, blind.undecidable) == (2, 0)


async def test_evidence_that_was_erased_is_not_guessed() -> None:
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD)) as runtime:
        await runtime.run(NodeInput(node_id="a", run_id="r", input={"x": 1}, handler=str))
        await ledger.anonymize_run("r")
        report = await judged(ledger, candidate('decision := {"allow": true}'))
    assert (report.decisions, report.undecidable, report.same) == (1, 1, 0)
    assert report.why.rows()[0]["key"] == "the decision's evidence is erased"


async def test_records_without_the_question_are_undecidable() -> None:
    config = {"version": 1, "plugins": {"rego": {"record_input": False}}}
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, config=config) as runtime:
        await runtime.run(NodeInput(node_id="a", run_id="r", input={"x": 1}, handler=str))
        report = await judged(ledger, Candidate(Bundle.load(shipped_bundle("authz"))))
    assert report.why.rows()[0]["key"] == "the record does not say what was asked"


async def test_the_bundle_that_decided_flips_nothing() -> None:
    bundle = Bundle.load(shipped_bundle("authz"))
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Policy(bundle)) as runtime:
        for number in range(12):
            await runtime.run(
                NodeInput(
                    node_id="n", run_id="r", kind="tool", tool=("refund", "look_up", "delete_all")[number % 3],
                    input={"tenant": "rival" if number % 4 == 0 else "default", "n": number}, handler=lambda v: v,
                    risk=("irreversible", None)[number % 2],
                )
            )  # fmt: skip
        report = await judged(ledger, Candidate(bundle))
    assert report.decisions >= 20
    assert (report.flips, report.reasons, report.undecidable) == (0, 0, 0)


async def test_the_page_escapes_everything() -> None:
    evil = "<script>alert(1)</script>"
    async with ReplayLedger(":memory:") as ledger, StepRuntime(ledger=ledger, policy=Policy.from_rego(OLD)) as runtime:
        await runtime.run(
            NodeInput(node_id=evil, run_id=evil, kind="tool", tool=evil, input={}, handler=str, agent_id=evil)
        )
        report = await judged(
            ledger, candidate('decision := {"allow": false, "reasons": [{"code": "x", "rule": "<b>\u202e"}]}')
        )
    page = html_page(report, lambda change: f'https://x/"{change.run_id}')
    assert evil not in page
    assert "<b>&lt;" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert 'href="https://x/&quot;' in page
    assert "default-src 'none'" in page


def record(number: int, evidence: Mapping[str, Any]) -> StepRecord:
    started = 1_700_000_000_000_000 + number
    stages = ("identity_verification", "tenant_scoping", "rate_limiting", "budget_check")
    results = [StageResult(stage, "plugin", Effect.ALLOW) for stage in stages]
    results += [StageResult(entry.stage, "rego", Effect.ALLOW, evidence=evidence) for entry in (POLICY, TOOLS)]
    results += [StageResult(stage, "plugin", Effect.ALLOW) for stage in ("risk_classification", "taint_propagation")]
    return StepRecord(
        run_id=f"run-{number // 500}", node_id="call", step_id=f"s{number}", node_kind="tool", tool="look_up",
        principal=Principal("ana", f"agent-{number % 7}", roles=("support",)), tenant_id="acme",
        input={"id": number, "text": "where is my order"}, output={"found": 1}, metadata={"purpose": "help"},
        results=tuple(results), executed=True, risk="internal", origin="user", confidentiality="internal",
        started_us=started, duration_ns=1_000_000, fingerprint="f" * 64,
    )  # fmt: skip


def resident_bytes() -> int:
    """Return what the process holds in memory now; 0 where that is not told so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.soak
async def test_memory_is_flat_and_five_thousand_decisions_a_second_are_made(tmp_path: Path) -> None:
    counts = (10_000, 1_000_000) if SOAK else (1_000, 6_000)
    bundle = Candidate(Bundle.load(shipped_bundle("authz")))
    document = {"time_us": 5, "step": {"attempt": 1}, "estimate": {"micro_usd": 10, "tokens": 3}, "approval": None}
    asked = asked_of({**document, "declared": {"risk": None, "idempotent": None}}, 0)
    evidence = {"engine": "regorus 0.13.0", "bundle_digest": "a" * 64, "data_digest": "b" * 64, KEY: asked}
    peaks, rates, resident = [], [], []
    async with ReplayLedger(tmp_path / "runs.db", checkpoint_every=10_000) as ledger:
        written = 0
        for count in counts:
            while written < count // 2:
                batch = range(written, min(written + 500, count // 2))
                await asyncio.gather(*(ledger.write(record(number, evidence)) for number in batch))
                written = batch.stop
            if not SOAK:
                tracemalloc.start()
            begun = process_time()
            backtest, most = Backtest(bundle), 0
            before: str | None = None
            while runs := await ledger.list_runs(limit=500, before=before):
                for run in runs:
                    async for step in ledger.iter_run(run):
                        backtest.judge(step)
                    most = max(most, resident_bytes())
                before = runs[-1]
            resident.append(most)
            rates.append(backtest.report.decisions / (process_time() - begun))
            if not SOAK:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
            assert (backtest.report.decisions, backtest.report.same) == (count, count)
    print(f"decisions a second: {[round(rate) for rate in rates]}, bytes: {peaks} of Python, {resident} resident")
    if SOAK:
        assert rates[-1] >= 5_000
        assert resident[-1] < resident[0] + 100_000_000
    else:
        assert peaks[-1] < peaks[0] * 1.5 + 2_000_000


def test_reads_are_as_narrow_as_the_rules() -> None:
    rules = (
        'decision := {"allow": count(d) == 0}\n'
        'd contains 1 if {\n\tsome k in ["a", "b"]\n\tinput.arguments[k].x\n}\n'
        'd contains 2 if object.get(input.metadata, "purpose", "") == "x"\n'
        "d contains 3 if { some r in input.principal.roles; data.roles[r][input.tool] }\n"
        "d contains 4 if f(input.node)\nf(n) if n.id"
    )
    found = candidate(rules, {"roles": {}})
    seen = ["arguments.a", "arguments", "metadata.purpose", "principal.roles.0", "tool", "node.id"]
    unseen = ["arguments.a.y", "arguments.c", "metadata.other", "principal.subject", "input"]
    assert [path for path in seen if not found.looks_at(POLICY, tuple(path.split(".")))] == []
    assert [path for path in unseen if found.looks_at(POLICY, tuple(path.split(".")))] == []
    assert not found.has(COMPLIANCE)
    assert not found.has(OUTPUT)
    assert [entry.stage for entry in ENTRY_POINTS if found.has(entry)] == ["policy_evaluation"]


@pytest.mark.parametrize(
    "again",
    [
        "count([1 | k := input.metadata.which; input.arguments[k]]) > 0",
        "every k, v in input.metadata { input.arguments[k] == v }",
        "every k in input.metadata.names { input.arguments[k] }",
        "count([1 | some k; input.metadata[k]; input.arguments[k]]) > 0",
        "count([1 | [k, _] := input.metadata.which; input.arguments[k]]) > 0",
    ],
)
def test_a_name_that_is_declared_again_is_not_taken_for_what_it_was_listed_as(again: str) -> None:
    rules = (
        'decision := {"allow": count(d) == 0}\n'
        f'd contains 1 if {{\n\tsome k in ["a"]\n\tinput.arguments[k]\n\t{again}\n}}'
    )
    assert candidate(rules).looks_at(POLICY, ("arguments", "b"))
