"""Chance that depends on nothing but what it is asked for.

A draw is keyed by the seed and by what it is for (a link and the number of the message on it, a node and the
number of its commit), so what happens elsewhere leaves it as it was, and taking an event out of a run shifts
only what comes later in the same place.
"""

from __future__ import annotations

import hashlib
import random
from struct import Struct

_SEVEN = Struct("<7Q")


class Draws:
    """Some numbers from 0 to below 1, all from one key; `take` gives the next one."""

    __slots__ = ("_at", "_values")

    def __init__(self, seed: int, *key: str | int) -> None:
        digest = hashlib.blake2b(repr((seed, key)).encode(), digest_size=56).digest()
        self._values = _SEVEN.unpack(digest)
        self._at = 0

    def take(self) -> float:
        value: int = self._values[self._at]
        self._at += 1
        return (value >> 11) / (1 << 53)


def generator(seed: int, *key: str | int) -> random.Random:
    """A generator of its own for this key, for what needs many draws."""
    digest = hashlib.blake2b(repr((seed, key)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
