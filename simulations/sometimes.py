"""What a campaign must have come upon, or it has tested less than it says."""

from __future__ import annotations

from collections.abc import Mapping

ENOUGH_SEEDS = 500
"""From so many seeds of the swarm on, everything below is expected to have happened."""

SWARM = (
    # Faults that really struck.
    "message lost",
    "message doubled",
    "message delayed",
    "message cut short",
    "bit flipped",
    "message into a cut",
    "message held up",
    "stale request replayed",
    "change out of turn",
    "stranger: noise",
    "stranger: newer delta",
    "stranger: damaged position",
    "stranger: forged own delta",
    "stranger: broken directory",
    "partition",
    "one-way partition",
    "node isolated",
    "crash now",
    "crash before persist",
    "crash in persist",
    "crash after persist",
    "crash before send",
    "crash in recovery",
    "node paused",
    "node slow",
    "node joined late",
    "node left",
    "older version installed",
    "node upgraded",
    "I/O error",
    "disk full",
    "record damaged",
    "disk replaced: lost",
    "disk replaced: an old backup",
    "disk replaced: another's",
    "node retired",
    "wall clock jumped",
    "wall clock frozen",
    "clock drifted",
    # What the code does about them.
    "commit kept by a crash",
    "commit lost by a crash",
    "wrong checksum noticed",
    "disk replaced: damaged",
    "connection refused",
    "call timed out",
    "peer refused",
    "gap answered",
    "older version spoken",
    "log pruned",
    "snapshot merged",
    "another id taken",
    "partition healed",
    "clogged link released",
    "renumbered after healing",
    "flag followed a move",
    # What clients do.
    "mailbox read",
    "changes followed",
    "client failed over",
    "token not yet covered",
    "acknowledged by another node",
    "request refused",
)
"""The counters of `World.reached` that the swarm must move."""


def never_reached(reached: Mapping[str, int]) -> list[str]:
    """What did not happen of all that should."""
    return [name for name in SWARM if not reached.get(name)]
