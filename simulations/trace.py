"""What happened in a run, in order: what the checks report, the pictures show and the hash covers.

A record is plain data, so that a trace can be written to a file, compared and hashed.  Nothing here
decides anything.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One thing that happened at a simulated time (microseconds since the start).

    `kind` and what `node` and `details` are then:

    | kind | node | details |
    |---|---|---|
    | `up` | node | the replica id in 16 digits |
    | `down` | node | why |
    | `pause`, `resume` | node | |
    | `cut`, `join` | source | target: that direction of the link is cut, or whole again |
    | `send` | source | target, message number, what (`exchange`, `push`, `answer`), bytes |
    | `arrive` | target | message number |
    | `refused` | target | message number: the node is down, the connection is refused |
    | `lost` | source | message number |
    | `damaged` | source | message number; it arrives all the same |
    | `sync` | node | deltas made durable |
    | `answer` | node | what a client was told, in a few words |
    | `event` | node or empty | an event, by name and as a story spells it, and why it did nothing if so |
    | `client` | node | the client, what it did, and what came of it |
    | `idle` | node | the client if there is one, what it did or was done, and why nothing came of it |
    | `failover` | node | the client that turns to it, the node that it leaves |
    | `probe` | | from here on each node takes one more message, to see whether it can |
    | `state` | | distinct states among the nodes that run, deltas that are not yet on every node |
    | `calm` | | from here on nothing is broken any more |
    | `fault` | node or empty | its name, and what it did |
    | `violation` | node or empty | which promise, and what was seen instead |
    """

    at_us: int
    kind: str
    node: str
    details: tuple[Any, ...] = ()


def trace_hash(records: list[Record]) -> str:
    """The same for the same records, on every machine and every Python."""
    hashed = hashlib.blake2b(digest_size=8)
    for record in records:
        hashed.update(repr(tuple(record)).encode())
    return hashed.hexdigest()


def equal_after_heal_s(records: list[Record]) -> float | None:
    """Seconds from when the last cut was healed before the calm until all nodes held the same, if ever."""
    end = next((n for n, record in enumerate(records) if record.kind == "calm"), len(records))
    healed = next((n for n in reversed(range(end)) if records[n].kind == "join"), None)
    if healed is None:
        return None
    states = [n for n, record in enumerate(records) if record.kind == "state"]
    before = [n for n in states if n < healed][-1:]
    for n in [*before, *(n for n in states if n > healed)]:
        if records[n].details == (1, 0):
            return max(0, records[n].at_us - records[healed].at_us) / 1e6
    return None
