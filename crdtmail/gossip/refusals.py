"""What was refused of others: of whom, why, how often, and the last of each with its text.

Whoever calls chooses neither how much is kept here nor by which names: reasons are ours, the peers that are
told apart are limited, and texts are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from crdtmail.errors import PeerError, Refusal
from crdtmail.limits import MAX_PEERS_NAMED, MAX_REFUSAL_TEXT

OTHERS = "others"
"""Peers beyond those that are told apart, and those that do not say which replica they are."""
ORDINARY = frozenset({Refusal.GAP, Refusal.NOT_NOW, Refusal.FILLING, Refusal.TOO_SLOW, Refusal.PROTOCOL})
"""What befalls sound peers too, now and then: they go on from where they were told, or try again."""


@dataclass(slots=True)
class Refused:
    """How often since the start; `at` (seconds, on the clock of `Refusals`) and `text` are the last one's."""

    count: int
    at: float
    text: str


class Refusals:
    """Counts refusals.  `now` gives seconds on a clock that nobody sets."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by: dict[str | None, dict[Refusal, Refused]] = {}

    def count(self, peer: str | None, reason: Refusal, text: str) -> None:
        """Something of this peer was refused: its replica (16 hexadecimal digits) where it called us, the
        address where it answered us; None is everybody who did not show who they are."""
        if peer not in self._by and peer is not None and len(self._by) >= MAX_PEERS_NAMED:
            peer = OTHERS
        shown = "".join(c if c.isprintable() else "?" for c in text[:MAX_REFUSAL_TEXT])
        reasons = self._by.setdefault(peer, {})
        before = reasons.get(reason)
        reasons[reason] = Refused(1 + (before.count if before else 0), self._now(), shown)

    def refuse(self, peer: str, error: PeerError) -> None:
        """Count it, unless it is the peer that refused us, or that was not there."""
        if error.reason is not None:
            self.count(peer, error.reason, str(error))

    def __iter__(self) -> Iterator[tuple[str | None, Refusal, Refused]]:
        for peer, reasons in self._by.items():
            for reason, refused in reasons.items():
                yield peer, reason, refused

    @property
    def faults(self) -> int:
        """How often peers sent what no sound peer sends."""
        return sum(
            refused.count for peer, reason, refused in self if peer is not None and reason not in ORDINARY
        )

    @property
    def unauthenticated(self) -> Refused | None:
        """Of all who did not show who they are: how often, and the last time; None if there was nobody."""
        found = self._by.get(None)
        if not found:
            return None
        last = max(found.values(), key=lambda refused: refused.at)
        return Refused(sum(refused.count for refused in found.values()), last.at, last.text)
