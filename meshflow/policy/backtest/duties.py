"""Which obligations an allowance would gain or lose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from meshflow.policy.answer import DUTIES
from meshflow.policy.asked import KEY, WITHOUT_DUTIES
from meshflow.policy.backtest.doubts import holds_token


def changed_duties(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Return the names of duties that are new, and of those that are gone or asked with other parameters.

    Where redaction has changed the parameters that were recorded, names alone are compared.
    """
    whole = not holds_token(then.get(DUTIES, []))
    before, after = _written(then, whole=whole), _written(now, whole=whole)
    return {name for name, _ in after - before}, {name for name, _ in before - after}


def unknown_duties(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether duties are asked now of which an old record does not say whether they were asked then."""
    return bool(now.get(DUTIES)) and DUTIES not in then and then[KEY]["v"] == WITHOUT_DUTIES


def _written(evidence: Mapping[str, Any], *, whole: bool) -> set[tuple[str, bytes]]:
    return {
        (one["name"], orjson.dumps(one["parameters"], option=orjson.OPT_SORT_KEYS) if whole else b"")
        for one in evidence.get(DUTIES, ())
    }
