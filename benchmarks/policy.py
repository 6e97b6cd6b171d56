"""Policy engines: what the embedded one adds to its bare call, what several threads bring, a backtest's rate."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns, process_time
from typing import Any

import orjson

from benchmarks.harness import ROOT, Row, at_most, beside, prose
from meshflow import ReplayLedger
from meshflow.decision import Effect
from meshflow.facts import Principal
from meshflow.policy import Bundle, Policy, PolicyAnswer, PolicyEngine, decision_from, shipped_bundle
from meshflow.policy.asked import KEY, asked_of
from meshflow.policy.backtest import Backtest, Candidate
from meshflow.policy.compile import new_engine
from meshflow.policy.engine import POLICY, TOOLS
from meshflow.policy.regorus import RegorusEngine
from meshflow.record import StageResult, StepRecord

RULE = POLICY.rule


async def rows(quick: bool) -> list[Row]:
    """Measure single decisions, threads and backtests."""
    return [
        *await _single(20 if quick else 2_000),
        *await asyncio.to_thread(_threads, 20 if quick else 1_500),
        *await _backtest(1_000 if quick else 20_000),
    ]


def desk() -> Bundle:
    """Return the bundle: 1,000 roles, 1,000 tools, 50 tenants."""
    roles = {
        f"role{n}": {
            "inherits": [f"role{(n * 7 + k) % 1_000}" for k in range(1, 4)],
            "tools": [f"tool{(n + k) % 1_000}" for k in range(4)] + [f"kit{n % 50}.*"],
            "budget_micro_usd": 1_000_000 + n,
        }
        for n in range(1_000)
    }
    tool = {"accepts": ["public", "internal"], "mask": ["EMAIL_ADDRESS"]}
    tools = {f"tool{n}": {"tier": n % 3, "owner": f"team{n % 40}", **tool} for n in range(1_000)}
    tenants = {f"tenant{n}": {"suspended": False} for n in range(50)}
    blocked = ["(?i)drop\\s+table", "(?i)rm\\s+-rf", "(?i)shutdown"]
    data = {"roles": roles, "tools": tools, "tenants": tenants, "blocked": blocked, "hours": {"from": 0}}
    return Policy.from_rego((ROOT / "benchmarks" / "agent.rego").read_text("utf-8"), {"desk": data}).bundle


def document() -> dict[str, Any]:
    """Return a decision document of about 2 KB that is allowed."""
    text = next(iter(prose(1_300)))
    return {
        "version": 1, "stage": POLICY.stage, "time_us": 1_700_000_000_000_000, "tenant": "tenant3",
        "principal": {
            "subject": "ana", "agent_id": "desk", "issuer": "https://login.example", "verified": True,
            "roles": ["role1", "role7"], "tenant": "tenant3",
        },
        "run": {"run_id": "run-1"}, "step": {"step_id": "step-1", "attempt": 1}, "node": {"id": "call", "kind": "tool"},
        "action": None, "tool": "tool8", "input": None, "arguments": {"order": "A-7", "note": text, "lines": [1, 2, 3]},
        "estimate": {"micro_usd": 12_000, "tokens": 300}, "declared": {"risk": None, "idempotent": None},
        "metadata": {"labels": ["internal"], "purpose": "help"}, "approval": None,
    }  # fmt: skip


def _p50(taken: list[int]) -> float:
    return median(taken) / 1_000


async def _single(count: int) -> list[Row]:
    """Take the bare call, the engine's and the whole decision in turn, so that all meet the same weather."""
    bundle, asked = desk(), document()
    engine, bare = RegorusEngine(bundle), new_engine(bundle)
    await engine.start()
    text = orjson.dumps(asked).decode()
    answer = await engine.evaluate(RULE, asked)
    if not isinstance(answer, PolicyAnswer) or not answer.allow:
        raise RuntimeError(f"the measured step is not allowed: {answer}")
    bare_ns, engine_ns, whole_ns = [], [], []
    for _ in range(count + 20):
        begun = perf_counter_ns()
        bare.set_input_json(text)
        bare.eval_rule_as_json(RULE)
        between = perf_counter_ns()
        answer = await engine.evaluate(RULE, asked)
        after = perf_counter_ns()
        decision_from(answer, "policy_evaluation.", {"engine": "regorus", KEY: asked_of(asked, 0)})
        bare_ns.append(between - begun)
        engine_ns.append(after - between)
        whole_ns.append(perf_counter_ns() - between)
    await engine.close()
    floor, call = _p50(bare_ns[20:]), "the bare engine call"
    return [
        at_most("rego: evaluation, p50", _p50(engine_ns[20:]), "us", 1.2, baseline=floor, baseline_is=call),
        beside("rego: evaluation and decision, p50", _p50(whole_ns[20:]), "us", floor, call),
        *(await _golib(bundle, asked, count, floor)),
    ]


async def _golib(bundle: Bundle, asked: dict[str, Any], count: int, floor: float) -> list[Row]:
    if find_spec("opa_bindings") is None:
        return []
    from meshflow.policy.golib import GolibEngine

    engine = GolibEngine(bundle, engines=1)
    await engine.start()
    taken = []
    for _ in range(count + 20):
        begun = perf_counter_ns()
        await engine.evaluate(RULE, asked)
        taken.append(perf_counter_ns() - begun)
    await engine.close()
    return [beside("golib: evaluation on its thread, p50", _p50(taken[20:]), "us", floor, "the bare regorus call")]


def _threads(count: int) -> list[Row]:
    """Count the decisions that two threads make beside those of one: an engine that holds the lock gains nothing."""
    bundle, asked = desk(), document()
    makers: dict[str, Callable[[], PolicyEngine]] = {"regorus": lambda: RegorusEngine(bundle)}
    if find_spec("opa_bindings") is not None:
        from meshflow.policy.golib import GolibEngine

        makers["golib"] = lambda: GolibEngine(bundle, engines=2)
    found = []
    for name, make in makers.items():
        one, two = (_rate(make(), asked, count, threads) for threads in (1, 2))
        found.append(beside(f"{name}: two threads", two, "/s", one, "one thread"))
    return found


def _rate(engine: PolicyEngine, asked: dict[str, Any], count: int, threads: int) -> float:
    async def work() -> None:
        for _ in range(count):
            await engine.evaluate(RULE, asked)

    asyncio.run(engine.start())
    workers = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(threads)]
    begun = perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = perf_counter() - begun
    asyncio.run(engine.close())
    return threads * count / elapsed


async def _backtest(steps: int) -> list[Row]:
    """Judge recorded steps by the starter bundle, two decisions a step, and count decisions a second of one core."""
    candidate = Candidate(Bundle.load(shipped_bundle("authz")))
    document = {
        "time_us": 5, "step": {"attempt": 1}, "approval": None, "estimate": {"micro_usd": 10, "tokens": 3},
        "declared": {"risk": None, "idempotent": None},
    }  # fmt: skip
    evidence = {"engine": "regorus", "bundle_digest": "a" * 64, "data_digest": "b" * 64, KEY: asked_of(document, 0)}
    with tempfile.TemporaryDirectory() as folder:
        async with ReplayLedger(Path(folder) / "runs.db", checkpoint_every=10_000) as ledger:
            for first in range(0, steps, 500):
                await asyncio.gather(*(ledger.write(_record(number, evidence)) for number in range(first, first + 500)))
            backtest, begun = Backtest(candidate), process_time()
            before: str | None = None
            while runs := await ledger.list_runs(limit=200, before=before):
                for run in runs:
                    async for step in ledger.iter_run(run):
                        backtest.judge(step)
                before = runs[-1]
            rate = backtest.report.decisions / (process_time() - begun)
    return [Row("backtest: recorded decisions, one core", rate, "/s", target=">= 5000 /s", met=rate >= 5_000)]


def _record(number: int, evidence: dict[str, Any]) -> StepRecord:
    stages = ("identity_verification", "tenant_scoping", "rate_limiting", "budget_check", "risk_classification")
    results = [StageResult(stage, "plugin", Effect.ALLOW) for stage in stages]
    results += [StageResult(entry.stage, "rego", Effect.ALLOW, evidence=evidence) for entry in (POLICY, TOOLS)]
    return StepRecord(
        run_id=f"run-{number // 500}", node_id="call", step_id=f"s{number}", node_kind="tool", tool="look_up",
        principal=Principal("ana", f"agent-{number % 7}", roles=("support",)), tenant_id="acme",
        input={"id": number, "text": "where is my order"}, output={"found": 1}, metadata={"purpose": "help"},
        results=tuple(results), executed=True, risk="internal", origin="user", confidentiality="internal",
        started_us=1_700_000_000_000_000 + number, duration_ns=1_000_000, fingerprint="f" * 64,
    )  # fmt: skip
