"""How tests are run: how many at once, and Hypothesis's profiles, `ci` by default and `long` for a night, by
HYPOTHESIS_PROFILE."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.data_too_large]
# The same examples every time, so that a change is judged and not its luck; nights take others.
settings.register_profile(
    "ci", max_examples=150, deadline=None, derandomize=True, suppress_health_check=_SLOW_MACHINES
)
settings.register_profile("long", max_examples=20_000, deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell that starts us in the background has us ignore Ctrl-C, and with us all programs that we interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest-xdist tells its workers how wide a screen is; what is printed would be folded there.
os.environ.pop("COLUMNS", None)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, because many tests wait for processes; memory is the limit."""
    return min(8, len(os.sched_getaffinity(0)) + 1)
