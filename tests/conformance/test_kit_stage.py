"""A plugin that breaks one contract of a gate fails the test of that contract."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from meshflow.plugin import (
    Decision,
    Obligation,
    Plugin,
    PluginError,
    RiskTier,
    Settings,
    StepContext,
    StepRecord,
    hookimpl,
)
from meshflow.testing import StageConformance
from meshflow.testing.base import PluginConformance

Attempt = Callable[[object, str], None]


class Word(Settings):
    word: str = Field(default="secret", description="A word.")


class Sound(Plugin[Word]):
    """Breaks nothing; the others change one thing each."""

    settings_type = Word

    @hookimpl
    async def guard_input(self, context: StepContext) -> Decision | None:
        if context.input == self.settings.word:
            return Decision.deny("input_guardrails.word", "the word is not allowed", evidence={"words": 1})
        return None


def broken(base: type[Plugin[Any]] = Sound, /, **members: Any) -> type[Plugin[Any]]:
    for name, member in members.items():
        if inspect.isfunction(member):
            member.__name__ = name
    return type("Broken", (base,), members)


def answering(answer: Callable[[StepContext], Any]) -> type[Plugin[Any]]:
    """Return a plugin whose guard_input answers as the function does."""

    @hookimpl
    async def guard_input(self: Any, context: StepContext) -> Any:
        return answer(context)

    return broken(guard_input=guard_input)


def trial(kit: type[PluginConformance], plugin: type[Plugin[Any]], **members: Any) -> PluginConformance:
    return type("Trial", (kit,), {"plugin_type": plugin, "stage": "input_guardrails", **members})()


def names(kit: type) -> list[str]:
    return [name for name in dir(kit) if name.startswith("test_") and callable(getattr(kit, name))]


class Loose(BaseModel):
    model_config = ConfigDict(frozen=True)


class Thawed(Settings):
    model_config = ConfigDict(frozen=False)
    word: str = Field(default="", description="A word.")


class Undescribed(Settings):
    word: str = ""


@hookimpl
async def startup_with_a_thread(self: Any) -> None:
    self.stop = threading.Event()
    threading.Thread(target=self.stop.wait, args=(5,), daemon=True).start()


@hookimpl
async def startup_once(self: Any) -> None:
    if hasattr(self, "on"):
        raise RuntimeError("already started")
    self.on = True


def opens_a_file(self: Any, settings: Any, host: Any = None) -> None:
    Plugin.__init__(self, settings, host)
    (self.host.base / "opened.log").write_text(str(time.monotonic_ns()))
    (self.host.base / f"{time.monotonic_ns()}.log").touch()


def starts_a_thread(self: Any, settings: Any, host: Any = None) -> None:
    Plugin.__init__(self, settings, host)
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()


@hookimpl
async def count_every_call(self: Any, context: StepContext) -> Decision | None:
    self.calls = getattr(self, "calls", 0) + 1
    return Decision.deny("input_guardrails.often", "too often") if self.calls > 40 else None


def flipping() -> Callable[[StepContext], Any]:
    turns: Iterator[bool] = iter([True, False] * 1_000)
    return lambda _: Decision.allow(reason=str(next(turns)))


def mutate(context: StepContext) -> None:
    if isinstance(context.input, dict):
        context.input["more"] = 1


def write(context: StepContext) -> None:
    with suppress(AttributeError):
        context.input = "mine"  # type: ignore[misc]


def block(context: StepContext) -> None:
    if context.input == "":
        time.sleep(0.08)


def swallow() -> Any:
    @hookimpl
    async def guard_input(self: Any, context: StepContext) -> None:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            return None

    return guard_input


@hookimpl
async def a_bare_assertion(self: Any, context: StepContext) -> Decision | None:
    return Decision.deny("input_guardrails.length", "long") if len(context.input) > 10_000 else None


@hookimpl
async def a_slow_scan(self: Any, context: StepContext) -> None:
    if isinstance(context.input, str) and len(context.input) > 900_000:
        await asyncio.sleep(0.4)


@hookimpl
async def a_settlement_that_fails(self: Any, context: StepContext, record: StepRecord) -> None:
    self.holds = getattr(self, "holds", set())
    if context.step_id in self.holds:
        raise KeyError(context.step_id)
    self.holds.add(context.step_id)


def deny(code: str, reason: str = "no", **evidence: Any) -> Callable[[StepContext], Any]:
    return lambda _: Decision.deny(code, reason, evidence=evidence)


ANSWERS = "test_answers_as_the_stage_asks"
FAULTS: dict[str, tuple[type[Plugin[Any]], str]] = {
    "answers True": (answering(lambda _: True), ANSWERS),
    "a code of another stage": (answering(deny("policy_evaluation.no")), ANSWERS),
    "no reason": (answering(deny("input_guardrails.no", "")), ANSWERS),
    "a fact where there is none": (answering(lambda _: Decision.allow(fact=RiskTier.INTERNAL)), ANSWERS),
    "evidence that is not JSON": (answering(deny("input_guardrails.no", why={1, 2})), ANSWERS),
    "evidence that is not a number": (answering(deny("input_guardrails.no", score=float("nan"))), ANSWERS),
    "a reason that cannot be stored": (answering(deny("input_guardrails.no", "\ud800")), ANSWERS),
    "an obligation without a name": (answering(lambda _: Decision.allow(obligations=(Obligation(""),))), ANSWERS),
    "writes to the context": (answering(write), ANSWERS),
    "changes the input": (answering(mutate), "test_changes_neither_step_nor_context"),
    "repeats the input": (
        answering(lambda context: Decision.deny("input_guardrails.no", f"{context.input!r} is refused")),
        "test_reason_and_evidence_repeat_no_sensitive_value",
    ),
    "changes its mind": (answering(flipping()), "test_same_question_has_the_same_answer"),
    "counts those who look": (broken(guard_input=count_every_call), "test_looking_changes_nothing"),
    "takes text for granted": (broken(guard_input=a_bare_assertion), "test_hostile_steps_are_answered_in_time"),
    "is slow on long text": (broken(guard_input=a_slow_scan), "test_hostile_steps_are_answered_in_time"),
    "needs an earlier fact": (
        answering(lambda context: context.facts["tenant_scoping"] and None),
        "test_steps_without_earlier_facts_are_answered",
    ),
    "blocks the loop": (answering(block), "test_does_not_hold_up_the_event_loop"),
    "swallows cancellation": (broken(guard_input=swallow()), "test_survives_cancellation"),
    "settles once only": (broken(settle_step=a_settlement_that_fails), "test_settling_twice_is_harmless"),
    "forgets the marker": (broken(limit_rate=lambda self, context: None), "test_hooks_are_well_formed"),
    "takes any setting": (broken(settings_type=Loose), "test_unknown_setting_is_refused"),
    "settings that thaw": (broken(settings_type=Thawed), "test_settings_are_frozen"),
    "settings nobody explains": (broken(settings_type=Undescribed), "test_settings_are_described"),
    "writes when it is made": (broken(__init__=opens_a_file), "test_making_it_opens_nothing"),
    "a thread when it is made": (broken(__init__=starts_a_thread), "test_making_it_opens_nothing"),
    "starts only once": (broken(startup=startup_once), "test_startup_and_shutdown_may_be_called_twice"),
    "leaves a thread": (broken(startup=startup_with_a_thread), "test_shutdown_leaves_no_thread"),
    "a digest by instance": (broken(digest=lambda self: str(id(self))), "test_digest_is_stable"),
    "meets a list": (broken(meets=["mask_entities"]), "test_obligations_met_are_names"),
    "vouches for what nobody requires": (
        broken(assures=lambda self: {"verified_identy": True}),
        "test_vouches_for_known_things",
    ),
    "vouches with a word that means nothing": (
        broken(assures=lambda self: {"encrypted_payloads": "somewhat"}),
        "test_vouches_for_known_things",
    ),
    "looks for entities in a list": (
        broken(assures=lambda self: {"entities": ["US_SSN"]}),
        "test_vouches_for_known_things",
    ),
    "keeps records for no time that can be told": (
        broken(assures=lambda self: {"retention": [{"keep": "30d"}]}),
        "test_vouches_for_known_things",
    ),
    "cannot take over": (
        broken(adopt=lambda self, previous: setattr(self, "on", previous.on)),
        "test_takes_over_from_its_predecessor",
    ),
}

RAISED: dict[str, tuple[type[Exception], ...]] = {
    "test_hooks_are_well_formed": (PluginError,),
    "test_startup_and_shutdown_may_be_called_twice": (RuntimeError,),
    "test_settling_twice_is_harmless": (KeyError,),
    "test_takes_over_from_its_predecessor": (AttributeError,),
}
"""Where the plugin's own exception is the finding."""


@pytest.mark.parametrize("name", names(trial(StageConformance, Sound).__class__))
def test_sound_plugin_passes(name: str, attempt: Attempt) -> None:
    attempt(trial(StageConformance, Sound), name)


@pytest.mark.parametrize(("plugin", "name"), FAULTS.values(), ids=FAULTS)
def test_fault_of_a_stage_is_found(plugin: type[Plugin[Any]], name: str, attempt: Attempt) -> None:
    trial_of = trial(StageConformance, plugin, timeout_s=0.2)
    with pytest.raises((AssertionError, pytest.fail.Exception, *RAISED.get(name, ()))):
        attempt(trial_of, name)


def test_every_test_of_the_stage_kit_has_a_fault_that_it_finds() -> None:
    found = {name for _, name in FAULTS.values()}
    assert set(names(StageConformance)) - found == {
        "test_many_steps_at_once_are_all_answered",
        "test_redacts_what_a_record_keeps",
    }
