"""UnsafeAllowAll keeps the contract of every gate, and says what it is."""

from __future__ import annotations

import pytest

from meshflow.stages import GATES, OUTPUT_GUARDRAILS, SENSITIVE_DATA, Stage
from meshflow.testing import StageConformance, UnsafeAllowAll
from meshflow.testing.unsafe import UnsafeWarning

SERVED = [stage for stage in (*GATES, OUTPUT_GUARDRAILS) if stage is not SENSITIVE_DATA]


@pytest.mark.filterwarnings("ignore::meshflow.testing.unsafe.UnsafeWarning")
@pytest.mark.parametrize("served", SERVED, ids=lambda stage: stage.name)
class TestUnsafeAllowAll(StageConformance):
    plugin_type = UnsafeAllowAll
    stage = "policy_evaluation"

    @pytest.fixture(autouse=True)
    def serve(self, served: Stage) -> None:
        self.stage = served.name  # type: ignore[misc]


def test_each_instance_warns_when_it_is_made() -> None:
    with pytest.warns(UnsafeWarning, match="tests only"):
        UnsafeAllowAll()
