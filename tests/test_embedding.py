"""The example in the package's own docstring runs as it stands."""

from __future__ import annotations

import doctest

import crdtmail


def test_the_example_of_the_package_runs() -> None:
    outcome = doctest.testmod(crdtmail)
    assert outcome.attempted >= 8
    assert outcome.failed == 0
