"""The units that limits are written in: rates, durations and amounts of USD."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

from meshflow.plugin import to_micro_usd

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_RATE: Final = re.compile(r"([0-9]{1,9})/([0-9]{0,9})([smhd])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many steps in so many nanoseconds."""

    count: int
    period_ns: int


def parse_duration_s(text: str) -> int:
    """Return the seconds of a duration such as ``90s``, ``15m``, ``1h`` or ``30d``; raise ValueError for any other."""
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if seconds < 1:
        raise ValueError(f"a duration is a whole number above 0 and one of s, m, h, d, such as 30d; not {text!r}")
    return seconds


def parse_rate(text: str) -> Rate:
    """Return the rate that ``100/1m``, ``5/s`` or ``10/h`` stands for; raise ValueError for any other text."""
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(f"a rate is steps/duration, such as 100/1m, 5/s or 10/h; not {text!r}")
    count, each = int(match[1]), int(match[2] or 1)
    if count < 1 or each < 1:
        raise ValueError(f"a rate needs a count and a duration above 0, not {text!r}; to forbid a step use a policy")
    return Rate(count, each * _SECONDS[match[3]] * 1_000_000_000)


def _rate(text: str) -> str:
    parse_rate(text)
    return text


def _duration(text: str) -> str:
    parse_duration_s(text)
    return text


def _usd(value: object) -> str:
    to_micro_usd(value)
    return str(value)


RateText = Annotated[str, AfterValidator(_rate)]
DurationText = Annotated[str, AfterValidator(_duration)]
UsdText = Annotated[str, BeforeValidator(_usd, json_schema_input_type=str | float)]
"""An amount of USD, kept as the decimal text that was written, so that no float rounds it."""
