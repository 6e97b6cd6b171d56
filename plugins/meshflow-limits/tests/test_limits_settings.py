"""Settings of limits: what is wrong is refused when they are loaded, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshflow.stages import STAGE_BY_NAME
from meshflow_limits import CODES, CapSettings, LimitsSettings, RateSettings
from meshflow_limits.build import cap_of, rule_of
from meshflow_limits.store import Ceiling
from meshflow_limits.units import parse_duration_s, parse_rate

HOUR_US = 3_600_000_000


def cap(**values: Any) -> CapSettings:
    return CapSettings.model_validate({"name": "c", **values})


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("100/1m", 100, 60), ("5/s", 5, 1), ("10/h", 10, 3600), ("1/30d", 1, 2_592_000), ("7/90s", 7, 90)],
)
def test_a_rate_is_steps_by_duration(text: str, count: int, seconds: int) -> None:
    rate = parse_rate(text)
    assert (rate.count, rate.period_ns) == (count, seconds * 1_000_000_000)


@pytest.mark.parametrize(
    "text",
    ["", "100", "/s", "0/s", "5/0s", "-5/s", "5/-1s", "1.5/s", "5/1w", "5 / s", "5/s ", "5/S", "NaN/s", "inf/s",
     "1e3/s", "\u0665/s", "9999999999/s", "5/s\n"],
)  # fmt: skip
def test_a_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="a rate"):
        RateSettings.model_validate({"name": "r", "rate": text})


@pytest.mark.parametrize("burst", [0, -1, 1.5, "many", float("nan"), float("inf")])
def test_a_wrong_burst_is_refused(burst: object) -> None:
    with pytest.raises(ValidationError, match="burst"):
        RateSettings.model_validate({"name": "r", "rate": "5/s", "burst": burst})


@pytest.mark.parametrize(
    "usd", ["NaN", "nan", float("nan"), float("inf"), "-inf", -1, "-0.01", "ten", True, [], {}, "1e30", "", "sNaN"]
)
@pytest.mark.parametrize("field", ["caps", "default_estimate_usd"])
def test_an_amount_that_is_no_amount_is_refused(usd: object, field: str) -> None:
    settings = {"caps": [{"name": "c", "usd": usd}]} if field == "caps" else {field: usd}
    with pytest.raises(ValidationError, match="a cost"):
        LimitsSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("usd", "micro"), [("1.00", 1_000_000), (0.1, 100_000), (0, 0), ("0.0000019", 1), (2, 2_000_000)]
)
def test_a_cap_in_usd_is_exact_and_rounded_down(usd: object, micro: int) -> None:
    assert cap_of(cap(usd=usd)).ceiling == Ceiling(micro, None, None)


@pytest.mark.parametrize("period", ["", "0d", "1", "1w", "forever", "-1h", "1.5h", 30])
def test_a_wrong_period_is_refused(period: object) -> None:
    with pytest.raises(ValidationError):
        cap(usd=1, period=period)


def test_a_period_becomes_a_window_or_a_run() -> None:
    assert cap_of(cap(usd=1, period="1h")).period_us == HOUR_US
    assert cap_of(cap(usd=1)).period_us is None
    by_run = cap_of(cap(usd=1, period="run", per=["tenant"]))
    assert (by_run.per, by_run.period_us, by_run.by_run) == (("tenant", "run"), None, True)
    assert cap_of(cap(usd=1, per=["global"])).per == ()


def test_a_cap_that_caps_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="caps nothing; set usd, tokens or steps"):
        cap()


@pytest.mark.parametrize("kind", ["rates", "caps"])
def test_two_limits_of_one_name_are_refused(kind: str) -> None:
    limit = {"name": "twin", "rate": "1/s"} if kind == "rates" else {"name": "twin", "steps": 1}
    with pytest.raises(ValidationError, match=rf"{kind} need unique names; \['twin'\]"):
        LimitsSettings.model_validate({kind: [limit, limit]})


@pytest.mark.parametrize(
    "match", [{"tool": []}, {"tool": [""]}, {"tool": ["a*b"]}, {"agents": ["a"]}, {"tool": "mail"}]
)
def test_a_wrong_match_is_refused(match: object) -> None:
    with pytest.raises(ValidationError):
        RateSettings.model_validate({"name": "r", "rate": "1/s", "match": match})


@pytest.mark.parametrize("per", [["user"], ["global"], "tenant"])
def test_a_rate_by_something_unknown_is_refused(per: object) -> None:
    with pytest.raises(ValidationError):
        RateSettings.model_validate({"name": "r", "rate": "1/s", "per": per})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        LimitsSettings.model_validate({"rate": []})


def test_settings_have_a_json_schema_and_go_through_json_unchanged() -> None:
    assert LimitsSettings.model_json_schema()["properties"]["caps"]
    settings = LimitsSettings.model_validate(
        {"rates": [{"name": "r", "rate": "5/s"}], "caps": [{"name": "c", "usd": 0.1, "period": "1d"}]}
    )
    assert LimitsSettings.model_validate_json(json.dumps(settings.model_dump(mode="json"))) == settings


def test_every_field_says_what_it_is() -> None:
    for model in (LimitsSettings, RateSettings, CapSettings):
        assert all(field.description for field in model.model_fields.values())


def test_the_burst_of_a_rule_is_the_count_unless_it_is_set() -> None:
    assert rule_of(RateSettings.model_validate({"name": "r", "rate": "5/s"})).burst == 5
    assert rule_of(RateSettings.model_validate({"name": "r", "rate": "5/s", "burst": 1})).burst == 1


def test_codes_belong_to_their_stages_and_say_what_they_mean() -> None:
    assert all(code.split(".")[0] in STAGE_BY_NAME and meaning.endswith(".") for code, meaning in CODES.items())


@given(st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1), st.sampled_from("smhd"))
def test_a_rate_reads_back_as_written(count: int, each: int, unit: str) -> None:
    rate = parse_rate(f"{count}/{each}{unit}")
    assert rate.count == count
    assert rate.period_ns == parse_duration_s(f"{each}{unit}") * 1_000_000_000


@given(st.text(alphabet="0123456789/smhd .-+e", max_size=9))
def test_what_is_taken_for_a_rate_is_above_zero(text: str) -> None:
    try:
        rate = parse_rate(text)
    except ValueError:
        return
    assert rate.count > 0
    assert rate.period_ns > 0
