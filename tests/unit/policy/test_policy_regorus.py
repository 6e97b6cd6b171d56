"""The embedded engine: its threads, its failures, and what it refuses to load."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from meshflow.errors import ConfigError, ContractError
from meshflow.policy import Policy, PolicyAnswer, PolicyEngine, PolicyFailure
from meshflow.policy.rego_tests import run_rego_tests
from meshflow.policy.regorus import RegorusEngine

RULE = "data.meshflow.policy.decision"
HEAD = "package meshflow.policy\n\n"
THREAD = "meshflow-regorus"


def engine_threads() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


def made(rules: str, data: dict[str, Any] | None = None, **settings: Any) -> RegorusEngine:
    return RegorusEngine(Policy.from_rego(HEAD + rules, data).bundle, **settings)


async def ask(rules: str, document: dict[str, Any] | None = None, rule: str = RULE) -> PolicyAnswer | PolicyFailure:
    engine = made(rules)
    await engine.start()
    try:
        return await engine.evaluate(rule, document or {})
    finally:
        await engine.close()


async def cause(rules: str, document: dict[str, Any] | None = None) -> tuple[str, str]:
    answer = await ask(rules, document)
    assert isinstance(answer, PolicyFailure), answer
    return answer.cause, answer.message


async def refusal(rules: str, data: dict[str, Any] | None = None) -> str:
    engine = made(rules, data)
    try:
        with pytest.raises(ConfigError) as caught:
            await engine.start()
        return str(caught.value)
    finally:
        await engine.close()


async def test_it_keeps_the_contract() -> None:
    engine: PolicyEngine = made('decision := {"allow": input.x == 1}')
    assert isinstance(engine, PolicyEngine)
    await engine.start()
    assert engine.name == "regorus"
    assert engine.version[0].isdigit()
    assert engine.has(RULE)
    assert not engine.has("data.meshflow.tools.decision")
    assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
    assert await engine.evaluate(RULE, {"x": 2}) == PolicyAnswer(False)
    await engine.close()


async def test_it_starts_on_first_use_and_again_after_close() -> None:
    engine = made('decision := {"allow": true}')
    assert await engine.evaluate(RULE, {}) == PolicyAnswer(True)
    await engine.close()
    with pytest.raises(ContractError):
        engine.has(RULE)
    await engine.start()
    await engine.start()
    assert await engine.evaluate(RULE, {}) == PolicyAnswer(True)
    await engine.close()
    await engine.close()


async def test_close_ends_the_thread_and_so_does_losing_the_engine() -> None:
    before = engine_threads()
    engine = made('decision := {"allow": true}', in_place_threads=0)
    await engine.start()
    assert engine_threads() == before + 1
    await engine.close()
    assert engine_threads() == before
    engine = made('decision := {"allow": true}', in_place_threads=0)
    await engine.start()
    del engine
    gc.collect()
    assert engine_threads() == before


async def test_a_step_is_evaluated_on_the_thread_that_asks() -> None:
    before = engine_threads()
    engine = made('decision := {"allow": true}')
    waiting = engine.evaluate(RULE, {})
    with pytest.raises(StopIteration) as ended:
        waiting.send(None)
    assert ended.value.value == PolicyAnswer(True)
    assert engine_threads() == before
    await engine.close()


def test_threads_beyond_the_limit_share_one() -> None:
    before = engine_threads()
    engine = made('decision := {"allow": true}', in_place_threads=2)
    served: list[int] = []
    together = threading.Barrier(5)

    def ask_once() -> None:
        asyncio.run(engine.evaluate(RULE, {}))
        served.append(engine_threads() - before)
        together.wait(10)  # a thread that has ended gives its place to another

    threads = [threading.Thread(target=ask_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    together.wait(10)
    for thread in threads:
        thread.join()
    assert max(served) == 1
    asyncio.run(engine.close())
    assert engine_threads() == before


def test_a_thread_that_ends_gives_its_place_up() -> None:
    before = engine_threads()
    engine = made('decision := {"allow": true}', in_place_threads=1)
    for _ in range(3):
        thread = threading.Thread(target=lambda: asyncio.run(engine.evaluate(RULE, {})))
        thread.start()
        thread.join()
    assert engine_threads() == before


def test_an_engine_closed_elsewhere_is_freed_where_it_was_made(capfd: pytest.CaptureFixture[str]) -> None:
    engine, go_on, closed = made('decision := {"allow": true}'), threading.Event(), threading.Event()

    def use() -> None:
        asyncio.run(engine.evaluate(RULE, {}))
        go_on.set()
        closed.wait(10)
        other = made('decision := {"allow": false}')
        assert asyncio.run(other.evaluate(RULE, {})) == PolicyAnswer(False)

    thread = threading.Thread(target=use)
    thread.start()
    go_on.wait(10)
    asyncio.run(engine.close())
    closed.set()
    thread.join()
    gc.collect()
    assert "unsendable" not in capfd.readouterr().err


LET_GO_ELSEWHERE = {
    "the end of the interpreter": "",
    "a fork": "if pid := os.fork():\n    os.waitpid(pid, 0)\nos._exit(0)",
    "the cycle collector": "kept[0].cycle = kept\nkept.clear()\ngc.collect()",
    "an error that another thread remembers": "del errors[:]",
}


@pytest.mark.parametrize("how", LET_GO_ELSEWHERE)
def test_an_engine_that_another_thread_lets_go_of_is_left_in_peace(how: str) -> None:
    code = f"""
import asyncio, gc, os, threading, warnings
from meshflow.policy import Policy
from meshflow.policy.compile import new_engine
warnings.simplefilter("ignore")
bundle = Policy.from_rego('package meshflow.policy\\ndecision := {{"allow": true}}')
engine, asked, errors = bundle.engine(), threading.Event(), []

class Holder(list):
    pass

kept = Holder()

def carry(engine):
    raise ValueError

def use():
    asyncio.run(engine.evaluate("{RULE}", {{}}))
    kept.append(Holder([new_engine(bundle.bundle)]))
    try:
        carry(new_engine(bundle.bundle))
    except ValueError as error:
        errors.append(error)
    asked.set()
    threading.Event().wait()

threading.Thread(target=use, daemon=True).start()
asked.wait(20)
{LET_GO_ELSEWHERE[how]}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("in_place", [0, 2, 4])
def test_one_engine_serves_several_event_loops_and_threads(in_place: int) -> None:
    engine = made('decision := {"allow": input.n % 2 == 0}', in_place_threads=in_place)
    wrong: list[int] = []

    async def many(start: int) -> None:
        answers = await asyncio.gather(*(engine.evaluate(RULE, {"n": n}) for n in range(start, start + 50)))
        wrong.extend(n for n, a in enumerate(answers, start) if a != PolicyAnswer(n % 2 == 0))

    threads = [threading.Thread(target=lambda s=s: asyncio.run(many(s))) for s in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    asyncio.run(engine.close())


def test_an_engine_that_is_left_open_does_not_keep_the_interpreter_from_ending() -> None:
    code = (
        "import asyncio\nfrom meshflow.policy import Policy\n"
        "e = Policy.from_rego('package meshflow.policy\\ndecision := {\"allow\": true}').engine()\n"
        "print(asyncio.run(e.evaluate('data.meshflow.policy.decision', {})).allow)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_a_thread_of_its_own() -> None:
    code = (
        "import asyncio, os, warnings\nwarnings.simplefilter('ignore')\nfrom meshflow.policy import Policy\n"
        "rule = 'data.meshflow.policy.decision'\n"
        "e = Policy.from_rego('package meshflow.policy\\ndecision := {\"allow\": true}').engine()\n"
        "asyncio.run(e.evaluate(rule, {}))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if asyncio.run(e.evaluate(rule, {})).allow else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


async def test_undefined_denies_and_is_not_false() -> None:
    assert (await cause('decision := {"allow": true} if input.x == 1'))[0] == "undefined"


async def test_a_rule_that_the_bundle_lacks_is_undefined() -> None:
    answer = await ask('decision := {"allow": true}', rule="data.meshflow.tools.decision")
    assert isinstance(answer, PolicyFailure)
    assert answer.cause == "undefined"


async def test_two_rules_that_disagree_conflict_and_are_placed() -> None:
    rules = 'decision := {"allow": true} if input.a\n\ndecision := {"allow": false} if input.b'
    assert await cause(rules, {"a": 1, "b": 1}) == ("conflict", "two rules give different answers at policy.rego:5")


async def test_a_conflict_leaves_nothing_behind() -> None:
    engine = made('decision := {"allow": true} if input.a\n\ndecision := {"allow": false} if input.b')
    for document, allowed in (({"a": 1}, True), ({"b": 1}, False), ({"a": 1}, True)):
        failure = await engine.evaluate(RULE, {"a": 1, "b": 1})
        assert isinstance(failure, PolicyFailure)
        assert await engine.evaluate(RULE, document) == PolicyAnswer(allowed)
    await engine.close()


@pytest.mark.parametrize(
    "rules",
    [
        "decision := true", "decision := null", 'decision := "<undefined>"', "decision := 1", "decision := [true]",
        "decision if true", 'decision contains "allow"', "decision := {}", 'decision := {"allow": "yes"}',
        'decision := {"allow": true, "escalte": true}',
    ],
)  # fmt: skip
async def test_an_answer_of_another_shape_is_malformed(rules: str) -> None:
    found, _ = await cause(rules)
    assert found == ("undefined" if "undefined" in rules else "not_boolean" if '"yes"' in rules else "malformed_answer")


async def test_an_error_of_a_builtin_denies_even_under_not() -> None:
    found, message = await cause(
        'decision := {"allow": true} if not bad\n\nbad if to_number(input.q) > 1', {"q": "abc"}
    )
    assert (found, message) == ("engine_error", "the policy engine failed to evaluate a rule at policy.rego:5")


async def test_no_reason_carries_values_or_a_backtrace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    found, message = await cause('decision := {"allow": count(input.q) > 0}', {"q": 41111111})
    assert found == "engine_error"
    assert "41111111" not in message
    assert "backtrace" not in message.lower()
    assert len(message) < 100


async def test_a_crash_denies_and_the_engine_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    engine = made('decision := {"allow": strings.count("abc", input.q) > 0}')
    failure = await engine.evaluate(RULE, {"q": ""})
    assert isinstance(failure, PolicyFailure)
    assert failure.cause == "engine_crashed"
    assert await engine.evaluate(RULE, {"q": "b"}) == PolicyAnswer(True)
    await engine.close()
    capfd.readouterr()  # the library says on stderr that it panicked


async def test_a_document_that_cannot_be_encoded_or_is_too_large_denies() -> None:
    engine = made('decision := {"allow": true}', max_input_bytes=1_024)
    for document, wanted in (({"a": float("nan")}, "unencodable_input"), ({"a": "x" * 2_000}, "input_too_large")):
        failure = await engine.evaluate(RULE, document)
        assert isinstance(failure, PolicyFailure)
        assert failure.cause == wanted
    await engine.close()


async def test_more_waiting_steps_than_allowed_are_refused_and_later_ones_served() -> None:
    engine = made('decision := {"allow": sum(numbers.range(1, 20000)) > 0}', max_waiting=4, in_place_threads=0)
    await engine.start()
    answers = await asyncio.gather(*(engine.evaluate(RULE, {}) for _ in range(64)))
    causes = [answer.cause for answer in answers if isinstance(answer, PolicyFailure)]
    assert set(causes) == {"overloaded"}
    assert len(causes) < 64
    assert await engine.evaluate(RULE, {}) == PolicyAnswer(True)
    await engine.close()


async def test_a_caller_that_gives_up_does_not_disturb_the_others() -> None:
    engine = made('decision := {"allow": sum(numbers.range(1, input.n)) > 0}', in_place_threads=0)
    await engine.start()
    slow = [asyncio.ensure_future(engine.evaluate(RULE, {"n": 20_000})) for _ in range(5)]
    quick = asyncio.ensure_future(engine.evaluate(RULE, {"n": 3}))
    await asyncio.sleep(0)
    for task in slow[1:]:
        task.cancel()
    assert await quick == PolicyAnswer(True)
    assert await slow[0] == PolicyAnswer(True)
    assert all(task.cancelled() for task in slow[1:])
    await engine.close()


async def test_evaluation_cannot_be_interrupted_and_its_answer_comes_late() -> None:
    """A slow rule runs to its end; what a time-out gives up is only the waiting for it."""
    engine = made(
        'decision := {"allow": sum([1 | some i in numbers.range(1, 600); some j in numbers.range(1, 600)]) > 0}',
        in_place_threads=0,
    )
    await engine.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await engine.evaluate(RULE, {})
    assert isinstance(await engine.evaluate(RULE, {}), PolicyAnswer)
    await engine.close()


async def test_the_document_is_taken_as_it_was_when_asked() -> None:
    engine = made('decision := {"allow": input.n == 1}')
    await engine.start()
    document = {"n": 1}
    asked = engine.evaluate(RULE, document)
    task = asyncio.ensure_future(asked)
    await asyncio.sleep(0)
    document["n"] = 2
    assert await task == PolicyAnswer(True)
    await engine.close()


async def test_any_text_reaches_the_policy_as_it_is() -> None:
    engine = made('decision := {"allow": input.a == input.b}')
    for text in ("\x00", "\U0001f600", "e\u0301", '"\\', "${x}", "\u2028", "\ufeff", "a" * 100_000):
        assert await engine.evaluate(RULE, {"a": text, "b": text}) == PolicyAnswer(True)
        assert await engine.evaluate(RULE, {"a": text, "b": text + " "}) == PolicyAnswer(False)
    await engine.close()


async def test_printing_policies_print_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert await ask('decision := {"allow": true} if print("secret", input.x)', {"x": "pin 1234"}) == PolicyAnswer(True)
    assert "1234" not in "".join(capfd.readouterr())


async def test_data_and_large_data_decide() -> None:
    users = {f"u{i}": {"ok": i % 2 == 0} for i in range(200_000)}
    engine = made('decision := {"allow": data.users[input.u].ok}', {"users": users})
    assert await engine.evaluate(RULE, {"u": "u199998"}) == PolicyAnswer(True)
    assert await engine.evaluate(RULE, {"u": "u199999"}) == PolicyAnswer(False)
    assert isinstance(await engine.evaluate(RULE, {"u": "nobody"}), PolicyFailure)
    await engine.close()


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ('decision := {"allow"', "policy.rego:3: expecting"),
        ("allow { true }", "policy.rego:3: `if` keyword is required"),
        ('decision := $"x {input.y}"', "policy.rego:3: string interpolation"),
        ('decision := {"allow": true}\n\nunused := io.jwt.decode("x")', "policy.rego:5: io.jwt.decode is neither"),
        ('decision := {"allow": true}\n\nunused := crypto.sha256("x")', "policy.rego:5: crypto.sha256 is neither"),
        ('decision := {"allow": true}\n\nf(x) if nofn(x)', "policy.rego:5: nofn is neither"),
        ('decision := {"allow": true} if http.send({})', "policy.rego:3: http.send may not be called"),
        ('decision := {"allow": opa.runtime() == {}}', "opa.runtime may not be called"),
        ('decision := {"allow": time.now_ns() > 0}', "use input.time_us"),
        ('decision := {"allow": rand.intn("x", 2) > 0}', "could not be decided again"),
        ('decision := {"allow": true}\n\nunused if not mistyped', "policy.rego:5: use of undefined"),
        ('decision := {"allow": f(1)}\n\nf(x) := f(x)', "policy.rego:5: functions may not call themselves"),
        ("decision := {\"allow\": f(1)}\n\nf(x) := g(x)\n\ng(x) := f(x)", "policy.f calls data.meshflow.policy.g"),
        ("decision := a\n\na := b\n\nb := a", "recursion detected"),
        ('default decision := {}\n\ndefault decision := {"allow": true}', "policy.rego:5: a second default"),
        ('decision := {"allow": object.get(data, "x", true)}', "data holds this rule too"),
        ('decision := {"allow": count(data.meshflow) > 0}', "data.meshflow holds this rule too"),
        ('decision := {"allow": data[input.x]}', "data holds this rule too"),
        ("decision.allow := true", "write the decision as one object"),
        ("decision := [" + "[" * 30 + "]" * 30 + "]", "policy.rego:3: brackets are nested too deeply"),
        ("decision := " + "(" * 100 + "1" + ")" * 100, "brackets are nested too deeply"),
    ],
)  # fmt: skip
async def test_what_cannot_work_is_refused_at_load_with_its_line(rules: str, part: str) -> None:
    message = await refusal(rules)
    assert part in message
    assert "backtrace" not in message.lower()


async def test_brackets_in_text_and_comments_are_no_nesting() -> None:
    text = "[" * 50
    rules = f'# {text} $"x"\ndecision := {{"allow": count("{text}") == 50}}\n\nraw := `{text}\n$"`'
    assert await ask(rules) == PolicyAnswer(True)


async def test_a_misspelt_entry_point_is_refused_since_it_would_abstain_in_silence() -> None:
    texts = {
        "a.rego": HEAD + 'decision := {"allow": true}',
        "b.rego": 'package meshflow.tool\n\ndecision := {"allow": false}',
    }
    engine = Policy.from_rego(texts).engine()
    with pytest.raises(ConfigError, match=r"b\.rego:3: .*did you mean data\.meshflow\.tools\.decision"):
        await engine.start()
    await engine.close()


@pytest.mark.parametrize("data", [{"decision": {"allow": True}}, {"decision": 1}, {"helper": {"x": 1}}])
async def test_data_may_not_lie_where_a_rule_does(data: dict[str, Any]) -> None:
    """The library would let the data win over the rule, and so whoever writes data would decide."""
    rules = 'decision := {"allow": helper}\n\nhelper := false'
    assert "a data document has a value where the rule" in await refusal(rules, {"meshflow": {"policy": data}})


async def test_functions_of_other_packages_are_found_by_import_and_in_full() -> None:
    texts = {
        "a.rego": HEAD
        + "import data.shared.helpers\nimport data.shared.helpers as h\n\n"
        + 'decision := {"allow": true} if { helpers.yes(1); h.yes(1); data.shared.helpers.yes(1); own(1) }\n\n'
        + "own(x) if x == 1",
        "b.rego": "package shared.helpers\n\nyes(x) if x == 1\n\nlabel := h if h := 2",
    }
    engine = Policy.from_rego(texts).engine()
    assert await engine.evaluate(RULE, {}) == PolicyAnswer(True)
    await engine.close()


async def test_rego_tests_tell_what_passed_and_why_not() -> None:
    rules = 'test_good if true\n\ntest_bad if 1 == 2\n\ntest_value := 3\n\ntest_error if to_number("x") == 1'
    results = run_rego_tests(Policy.from_rego(HEAD + rules).bundle)
    assert {(test.rule.rpartition(".")[2], test.passed) for test in results} == {
        ("test_good", True), ("test_bad", False), ("test_value", False), ("test_error", False),
    }  # fmt: skip
    problems = {test.rule.rpartition(".")[2]: (test.where, test.problem) for test in results}
    assert problems["test_bad"] == ("policy.rego:5", "is undefined, not true")
    assert "could not parse" in problems["test_error"][1]
