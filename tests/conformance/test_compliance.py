"""The compliance plugin keeps the contract of stage 6, with a profile and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from meshflow.testing import StageConformance
from meshflow_compliance import CompliancePlugin


class TestWithoutProfile(StageConformance):
    plugin_type = CompliancePlugin
    stage = "compliance_profile"


class TestHipaa(StageConformance):
    plugin_type = CompliancePlugin
    stage = "compliance_profile"
    settings: ClassVar[Mapping[str, Any]] = {"profiles": ["hipaa"]}
