"""Single plugins beside the bare thing that they are made of: a dict, the Rego engine, Presidio's own analyzer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count as counter
from itertools import islice
from typing import Any

from benchmarks.durable import TEXT_CHARS
from benchmarks.harness import Row, beside, in_turn, prose
from meshflow import NodeInput
from meshflow.plugin import Decision, Principal, StepContext, StepRecord, TenantScope, context_for

CAP = 10**15
HOLD = 10_000
FACTS: dict[str, Any] = {"identity_verification": Principal("ada", "agent-1"), "tenant_scoping": TenantScope("acme")}


def _context(text: str, step_id: str = "step") -> StepContext:
    step = NodeInput(node_id="ask", input=text, run_id="run", step_id=step_id, estimate_usd="0.01")
    return context_for(step, **FACTS)


def _allowed(decision: Decision | None) -> None:
    if decision is None or decision.effect.value != "allow":
        raise RuntimeError(f"a measured hook did not allow: {decision}")


async def rows(quick: bool) -> list[Row]:
    """Measure limits, rego and presidio."""
    rounds = 1 if quick else 9
    return [
        *await _limits(rounds, 20 if quick else 5_000),
        *await _rego(rounds, 3 if quick else 200),
        *await _presidio(rounds, 3 if quick else 100),
    ]


async def _limits(rounds: int, count: int) -> list[Row]:
    from meshflow_limits import LimitsPlugin, LimitsSettings

    settings = LimitsSettings.model_validate(
        {
            "rates": [{"name": "tenant", "per": ["tenant"], "rate": "1000000/1s", "burst": 1_000_000}],
            "caps": [{"name": "tenant", "per": ["tenant"], "usd": "1000000000", "period": "1d"}],
        }
    )
    plugin = LimitsPlugin(settings)
    context = _context("x")
    spent = StepRecord(run_id="run", node_id="ask", step_id="step", executed=True, cost_micro_usd=HOLD)
    account: dict[str, int] = {"acme": 0}
    holds: dict[int, int] = {}
    numbers = counter()

    async def rate() -> None:
        for _ in range(count):
            _allowed(await plugin.limit_rate(context))

    async def budget() -> None:
        for _ in range(count):
            _allowed(await plugin.check_budget(context))
            await plugin.settle_step(context, spent)

    async def plain() -> None:
        for _ in range(count):
            number, held = next(numbers), account["acme"]
            if held + HOLD <= CAP:
                account["acme"] = held + HOLD
                holds[number] = HOLD
            account["acme"] += HOLD - holds.pop(number)

    took = await in_turn(rounds, {"rate": rate, "budget": budget, "plain": plain}, count)
    floor = 1 / took["plain"].cpu
    return [
        beside("limits: reserve and settle", 1 / took["budget"].cpu, "/s", floor, "the same on a plain dict"),
        beside("limits: GCRA", 1 / took["rate"].cpu, "/s", floor, "the same on a plain dict"),
    ]


async def _rego(rounds: int, count: int) -> list[Row]:
    from meshflow.policy import shipped_bundle, step_document
    from meshflow.policy.bundle import Bundle
    from meshflow.policy.compile import new_engine
    from meshflow.policy.encode import encode
    from meshflow.policy.engine import MAX_INPUT_BYTES, POLICY
    from meshflow_rego import RegoPlugin, RegoSettings

    plugin = RegoPlugin(RegoSettings())
    engine = new_engine(Bundle.load(shipped_bundle("authz")))
    contexts = [_context(text) for text in islice(prose(TEXT_CHARS), count)]
    encoded = [encode(step_document(context, POLICY), MAX_INPUT_BYTES) for context in contexts]
    documents = [one.decode() for one in encoded if isinstance(one, bytes)]
    await plugin.startup()

    async def governed() -> None:
        for context in contexts:
            _allowed(await plugin.evaluate_policy(context))

    async def bare() -> None:
        for document in documents:
            engine.set_input_json(document)
            engine.eval_rule_as_json(POLICY.rule)

    took = await in_turn(rounds, {"governed": governed, "bare": bare}, count)
    await plugin.shutdown()
    us, floor = took["governed"].cpu * 1e6, took["bare"].cpu * 1e6
    return [beside("rego: one evaluation, CPU", us, "us", floor, "the bare regorus engine")]


async def _presidio(rounds: int, count: int) -> list[Row]:
    from meshflow_presidio import PresidioPlugin, PresidioSettings

    plugin = PresidioPlugin(PresidioSettings())
    await plugin.startup()
    analyze = _bare_presidio(sorted(set(plugin.settings.actions()) - {"SECRET"}))
    texts = islice(prose(TEXT_CHARS, 2), count * (rounds + 1))
    contexts = iter([_context(text) for text in islice(prose(TEXT_CHARS, 1), count * (rounds + 1))])
    theirs = iter(list(texts))

    async def scan() -> None:
        for context in islice(contexts, count):
            _allowed(await plugin.scan_sensitive_data(context))

    async def bare() -> None:
        for text in islice(theirs, count):
            analyze(text)

    took = await in_turn(rounds, {"scan": scan, "bare": bare}, count)
    us, floor = took["scan"].cpu * 1e6, took["bare"].cpu * 1e6
    return [beside("presidio: 1 KB of clean prose, CPU", us, "us", floor, "the bare AnalyzerEngine, no model")]


def _bare_presidio(entities: list[str]) -> Callable[[str], Any]:
    """Return Presidio's analyzer as it comes, without a model, on the entities that the plugin looks for."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    nlp = NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
    nlp.load()
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=nlp)
    engine = AnalyzerEngine(registry=registry, nlp_engine=nlp, supported_languages=["en"])
    known = [entity for entity in entities if entity in engine.get_supported_entities("en")]
    return lambda text: engine.analyze(text, "en", entities=known)
