"""What the checks decode again and again, decoded once.  The code under test never uses it."""

from __future__ import annotations

from functools import lru_cache

from crdtmail.crdt.codec import decode_delta
from crdtmail.gossip.codec import decode_answer, decode_position

decoded_delta = lru_cache(maxsize=4096)(decode_delta)
decoded_answer = lru_cache(maxsize=256)(decode_answer)
decoded_position = lru_cache(maxsize=512)(decode_position)
