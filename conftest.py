"""What every test of the repository starts from."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long one example takes says more of a shared machine than of the code; what must be quick has a test of its own.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
