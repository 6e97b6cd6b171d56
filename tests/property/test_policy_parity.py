"""All engines that this machine has give the same whole decision, on every shipped bundle and on whatever is asked.

With OPA_URL the real server of that address takes part too; its token is read from OPA_TOKEN.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshflow.policy import Bundle, Policy, PolicyEngine, PolicyFailure, decision_from, shipped_bundle
from meshflow.policy.engine import ENTRY_POINTS, EntryPoint
from meshflow.policy.golib import GolibEngine
from meshflow.policy.opa import OpaEngine, OpaServer
from meshflow.policy.regorus import RegorusEngine
from meshflow.policy.shipped import shipped_names
from meshflow.profiles.packs import find_pack

sys.path.append(str(Path(__file__).parents[1] / "unit" / "policy"))  # for ``opa_server``

SOAK = os.environ.get("MESHFLOW_SOAK") == "full"
EXAMPLES = 2_000 if SOAK else 60
TRICKY = """
package meshflow.policy

import data.lib

decision := {"allow": allow, "reasons": reasons, "obligations": duties, "escalate": escalate}

default allow := false

allow if {
	every label in input.metadata.labels { not label in data.lib.bad }
	not blocked
}

blocked if {
	is_string(input.input)
	regex.match(`(?i)drop\\s+table`, input.input)
}

blocked if {
	is_string(input.tool)
	glob.match("shell*", [], input.tool)
}

escalate := input.risk == "irreversible"

reasons contains {"code": "grant", "message": sprintf("%v by %s", [grants, input.principal.subject])} if {
	is_string(input.principal.subject)
	grants := {tool | some role in input.principal.roles; some tool in data.lib.roles[role]}
	count(grants) > 0
}

reasons contains {"code": "depth", "message": sprintf("%d", [count([1 | walk(input.arguments, [_, _])])])}

reasons contains {"code": "day", "message": time.weekday(input.time_us * 1000)}

reasons contains lib.reason(path) if some path in ["b", "a", "ä", "A"]

duties := [{"name": "mask_entities", "parameters": {"entities": sort(bad | {e.entity | some e in input.findings})}}]

bad := {one | some one in data.lib.bad}

decision := {"allow": true} if input.metadata.conflict
"""
LIB = 'package lib\n\nreason(text) := {"code": "said", "message": upper(text)}\n'


@dataclass(frozen=True, repr=False)
class Bench:
    """The engines of one bundle, all started, on a loop of their own."""

    bundle: Bundle
    engines: tuple[PolicyEngine, ...]
    runner: asyncio.Runner

    def decide(self, entry: EntryPoint, document: dict[str, Any]) -> dict[str, Any]:
        return {engine.name: _whole(self.runner.run(engine.evaluate(entry.rule, document))) for engine in self.engines}


def _whole(answer: Any) -> Any:
    decision = decision_from(answer, "policy_evaluation.", {})
    if isinstance(answer, PolicyFailure):
        return decision.effect, decision.code  # engines name different lines of a conflict
    duties = [(duty.name, dict(duty.parameters)) for duty in decision.obligations]
    return decision.effect, decision.code, decision.reason, duties, dict(decision.evidence)


def bundles() -> dict[str, Bundle]:
    found = {"authz": Bundle.load(shipped_bundle("authz"))}
    packs = {name: find_pack(name, {}, Path()).bundle for name in shipped_names("profiles")}
    found |= {name: bundle for name, bundle in packs.items() if bundle is not None}
    data = {"lib": {"roles": {"support": ["read", "write"], "odd": [3, None]}, "bad": ["secret", "pii"]}}
    tricky = Policy.from_rego({"policy.rego": TRICKY, "lib.rego": LIB}, data).bundle
    return {**found, "tricky": tricky}


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    pytest.importorskip("opa_bindings", reason="there is nothing to compare the embedded engine with")
    from opa_server import Server

    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        servers = [OpaServer(stack.enter_context(Server()).url, timeout_ms=10_000)]
        if url := os.environ.get("OPA_URL"):
            servers.append(OpaServer(url, token="env:OPA_TOKEN" if "OPA_TOKEN" in os.environ else None))
        made: dict[str, Bench] = {}
        for name, bundle in bundles().items():
            engines: tuple[PolicyEngine, ...] = (
                RegorusEngine(bundle), GolibEngine(bundle, engines=1), *(OpaEngine(bundle, one) for one in servers),
            )  # fmt: skip
            for engine in engines:
                stack.callback(lambda engine=engine: runner.run(engine.close()))
                runner.run(engine.start())
            made[name] = Bench(bundle, engines, runner)
        yield made


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_names = st.sampled_from(
    ["", "ana", "refund", "shell_run", "lookup_order", "tenant", "tenant_id", "http://x", "DROP  table", "ä", "𐐷"]
)
_number = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, width=32)
_json = st.recursive(
    st.none() | st.booleans() | _number | _names | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names | _text, inner, max_size=3),
    max_leaves=8,
)


def _documents(maybe: Callable[[st.SearchStrategy[Any]], st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Decision documents: arguments, inputs, metadata and outputs are any JSON; ``maybe`` may spoil all the rest."""
    principal = {
        "subject": maybe(_names), "agent_id": maybe(_names), "issuer": _names, "verified": maybe(st.booleans()),
        "roles": maybe(st.lists(st.sampled_from(["support", "admin", "nurse", "odd"]), max_size=3)),
        "tenant": maybe(st.none() | _names),
    }  # fmt: skip
    estimate = {"micro_usd": maybe(st.none() | st.integers(0, 10**7)), "tokens": st.just(0)}
    labels = {"origin": st.just("user"), "confidentiality": st.sampled_from(["secret", "public"])}
    tier = st.sampled_from([None, "read_only", "internal", "external_io", "irreversible"])
    return st.fixed_dictionaries(
        {
            "version": st.just(1),
            "time_us": maybe(st.integers(0, 4 * 10**15)),
            "principal": maybe(st.none() | st.fixed_dictionaries(principal)),
            "tenant": maybe(_names),
            "node": st.fixed_dictionaries({"id": _names, "kind": st.sampled_from(["tool", "model", "http"])}),
            "action": maybe(st.none() | _names),
            "tool": maybe(st.none() | _names),
            "arguments": _json,
            "input": _json,
            "estimate": maybe(st.fixed_dictionaries(estimate)),
            "declared": maybe(st.fixed_dictionaries({"risk": tier})),
            "metadata": maybe(
                st.fixed_dictionaries(
                    {}, optional={"labels": st.lists(_names, max_size=2), "purpose": _json, "conflict": st.just(True)}
                )
            ),
            "risk": maybe(tier),
            "labels": maybe(st.none() | st.fixed_dictionaries(labels)),
            "findings": maybe(st.lists(st.fixed_dictionaries({"entity": _names}), max_size=2)),
            "output": _json,
        }
    )


_sound = _documents(lambda usual: usual)
_spoilt = _documents(lambda usual: st.integers(0, 4).flatmap(lambda n: usual if n else _json))
_quietly = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.slow
@_quietly
@given(document=_sound)
@example(document={})
@example(document={"tool": "refund", "arguments": {"tenant": "rival"}, "tenant": "acme", "principal": {}})
def test_all_engines_decide_alike(benches: dict[str, Bench], document: dict[str, Any]) -> None:
    for name, bench in benches.items():
        for entry in ENTRY_POINTS:
            if bench.engines[0].has(entry.rule):
                decided = bench.decide(entry, document)
                assert all(one == decided["regorus"] for one in decided.values()), (name, entry.stage, decided)


@pytest.mark.slow
@_quietly
@given(document=_spoilt)
@example(document={"findings": None, "metadata": {"labels": 3}, "principal": {"roles": 7}})
def test_of_documents_that_no_runtime_makes_the_embedded_engine_allows_nothing_more(
    benches: dict[str, Bench], document: dict[str, Any]
) -> None:
    """To iterate over a number is an error to it, and nothing to OPA."""
    for name, bench in benches.items():
        for entry in ENTRY_POINTS:
            if bench.engines[0].has(entry.rule):
                decided = bench.decide(entry, document)
                embedded = decided.pop("regorus")
                if embedded[1] != "policy_evaluation.engine_error":
                    assert all(one == embedded for one in decided.values()), (name, entry.stage, decided, embedded)


def test_the_tricky_bundle_decides_something(benches: dict[str, Bench]) -> None:
    whole = {
        "tool": "read", "input": "x", "risk": "internal", "arguments": {"a": [1]}, "time_us": 0, "findings": [],
        "metadata": {"labels": []}, "principal": {"subject": "ana", "roles": ["support"]},
    }  # fmt: skip
    decided = benches["tricky"].decide(ENTRY_POINTS[0], whole)
    assert decided["regorus"][0].value == "allow"
    assert decided["regorus"][3][0][1] == {"entities": ["pii", "secret"]}
    conflicting = benches["tricky"].decide(ENTRY_POINTS[0], {**whole, "metadata": {"labels": [], "conflict": True}})
    assert {one[1] for one in conflicting.values()} == {"policy_evaluation.conflict"}


FAILING = {
    "undefined": 'decision := {"allow": true} if input.nothing',
    "conflict": 'decision := {"allow": true} if input.x\n\ndecision := {"allow": false} if input.x',
    "malformed_answer": "decision := input.x",
    "not_boolean": 'decision := {"allow": input.x}',
    "engine_error": 'decision := {"allow": to_number(input.text) > 1}',
}


@pytest.mark.parametrize("cause", FAILING)
async def test_failures_have_the_same_code_on_every_engine(cause: str) -> None:
    pytest.importorskip("opa_bindings")
    from opa_server import Server

    bundle = Policy.from_rego(f"package meshflow.policy\n\n{FAILING[cause]}\n").bundle
    with Server() as server:
        for engine in (RegorusEngine(bundle), GolibEngine(bundle), OpaEngine(bundle, OpaServer(server.url))):
            await engine.start()
            answer = await engine.evaluate(ENTRY_POINTS[0].rule, {"x": 1, "text": "abc"})
            await engine.close()
            assert isinstance(answer, PolicyFailure)
            assert answer.cause == cause, engine.name
