"""Two nodes that call themselves the same: a data folder that was cloned, or a careless name.

A node that takes another id keeps its name, so one name may have several replicas in its history.  It is two
nodes only if both are heard: the one after the other had come up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crdtmail.crdt.clock import ReplicaId
from crdtmail.gossip.peers import Heard
from crdtmail.limits import GOSSIP_TIMEOUT_S, NAMESAKE_S


class Namesakes:
    """Remembers since when each replica is known; to be asked at least every few minutes."""

    def __init__(self) -> None:
        self._since: dict[ReplicaId, float] = {}

    def look(self, heard: Mapping[ReplicaId, Heard], now: float) -> dict[str, list[ReplicaId]]:
        """The names under which several replicas live, with these."""
        by_name: dict[str, list[ReplicaId]] = {}
        for replica, it in heard.items():
            self._since.setdefault(replica, now)
            if now - it.at < NAMESAKE_S:
                by_name.setdefault(it.name, []).append(replica)
        found: dict[str, list[ReplicaId]] = {}
        for name, replicas in sorted(by_name.items()):
            living = [one for one in replicas if self._live_together(heard, one, replicas)]
            if living:
                found[name] = sorted(living)
        return found

    def _live_together(
        self, heard: Mapping[ReplicaId, Heard], one: ReplicaId, others: Iterable[ReplicaId]
    ) -> bool:
        """Whether this one and another were heard when both had come up; what was on its way then is none."""
        return any(
            min(heard[one].at, heard[other].at) > max(self._since[one], self._since[other]) + GOSSIP_TIMEOUT_S
            for other in others
            if other != one
        )
