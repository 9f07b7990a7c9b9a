"""What is said is decoded once in a run, however many nodes and checks read it: decoders are functions of
bytes alone, and what they give is never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from unittest.mock import patch

from crdtmail.crdt.codec import decode_delta
from crdtmail.gossip import conversation
from crdtmail.gossip.codec import decode_answer, decode_position

_DECODERS = {
    "decode_delta": (decoded_delta := lru_cache(maxsize=4096)(decode_delta)),
    "decode_answer": (decoded_answer := lru_cache(maxsize=256)(decode_answer)),
    "decode_position": (decoded_position := lru_cache(maxsize=512)(decode_position)),
}


@contextmanager
def decoded_once() -> Iterator[None]:
    """Within it the code under test decodes with these too.  What another run has decoded, perhaps with a
    planted bug, is forgotten."""
    with ExitStack() as stack:
        for name, decoder in _DECODERS.items():
            decoder.cache_clear()
            stack.enter_context(patch.object(conversation, name, decoder))
        yield
