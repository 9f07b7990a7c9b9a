"""Chance that depends on nothing but what it is asked for.

Each place where something is drawn (a link, a life of a node, a fault) has a generator of its own, keyed by
the seed and the place, and draws equally often each time.  So what happens elsewhere leaves it as it was,
and taking an event out of a run shifts only what comes later in the same place.
"""

from __future__ import annotations

import hashlib
import random


def generator(seed: int, *key: str | int) -> random.Random:
    """The generator of this place."""
    digest = hashlib.blake2b(repr((seed, key)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
