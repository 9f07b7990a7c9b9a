"""Whatever comes from outside is taken or refused as documented, and nothing else ever happens.

`python -m tests.long fuzz` tries a million inputs, `python -m tests.long atheris` looks for new paths.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzz

MOST = settings().max_examples


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_right_inputs_are_taken(name: str) -> None:
    """So that what is changed in them is what is refused; an update may build on others."""
    taken = [fuzz.TARGETS[name].run(seed) for seed in fuzz.TARGETS[name].seeds]
    assert any(taken)
    assert all(taken) or "update" in name


@pytest.mark.parametrize("name", fuzz.TARGETS)
@given(st.integers(0, 2**64), st.binary(max_size=80))
def test_anything_is_taken_or_refused(name: str, seed: int, noise: bytes) -> None:
    target = fuzz.TARGETS[name]
    target.run(target.input(random.Random(seed)))
    target.run(noise)


ODD = {
    "a number of 5,000 digits": f"interval = {'9' * 5000}",
    "20,000 lists in each other": f"x = {'[' * 20_000}",
    "a port of 5,000 digits": f"listen = '127.0.0.1:{'9' * 5000}'",
    "the home of nobody": "data = '~nobody-has-this-name/mail'",
}


@pytest.mark.parametrize("line", ODD.values(), ids=ODD)
def test_a_configuration_that_asks_for_the_impossible_is_refused(line: str) -> None:
    assert not fuzz.TARGETS["configuration"].run(line.encode())
