"""The pytest plugin that meshflow installs: failed contracts show their values, as a test's own assertions do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "meshflow.testing.base",
    "meshflow.testing.executor",
    "meshflow.testing.recorder",
    "meshflow.testing.stage",
)
