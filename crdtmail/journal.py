"""What a node writes into its log of what befalls it: one line each, for whoever looks for it later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from crdtmail.crdt.clock import ReplicaId
from crdtmail.errors import StoreError
from crdtmail.gossip.conversation import Gossip

log = logging.getLogger("crdtmail.node")

_ROOM_AGAIN_S = 30.0  # without a write that finds none: where little is left, small ones find it all the time


class Journal:
    """Compares what is with what was when it was last looked at."""

    def __init__(self, gossip: Gossip, before: ReplicaId | None, now: Callable[[], float]) -> None:
        """`before` is who the store was when it was opened, if it was anybody."""
        self._gossip = gossip
        self._now = now
        self._replica = gossip.replica.id
        if before not in (None, self._replica):
            log.warning("this data folder is a copy: new replica id %016x (was %016x)", self._replica, before)
        self._retired = gossip.retired
        self._filling = gossip.last_filling
        self._full_at: float | None = None

    def look(self, *, is_full: bool, asked: Iterable[ReplicaId] = ()) -> None:
        """Write down what has changed.  An operator has `asked` for the retirement of those."""
        gossip = self._gossip
        if gossip.replica.id != self._replica:
            why = (
                "the old one was retired by an operator, as a peer says"
                if gossip.was_retired
                else "as a peer shows, the old one is not this store's own"
            )
            log.warning("new replica id %016x (was %016x): %s", gossip.replica.id, self._replica, why)
            self._replica = gossip.replica.id
        if new := gossip.retired - self._retired:
            for replica in sorted(new):
                by = "an operator, here" if replica in asked else "an operator elsewhere, as a peer says"
                log.warning("%s is retired by %s", self.name(replica), by)
            self._retired = gossip.retired
        if (filling := gossip.last_filling) is not None and filling is not self._filling:
            log.info(
                "a snapshot is taken over: %s messages in %.1f s from %s",
                f"{filling.staged:,}",
                filling.took_s,
                self.source(filling.peer),
            )
            self._filling = filling
        now = self._now()
        if is_full:
            if self._full_at is None:
                log.error("there is no room left for the store: no writes, and nothing of peers, is taken")
            self._full_at = now
        elif self._full_at is not None and now - self._full_at > _ROOM_AGAIN_S:
            self._full_at = None
            log.info("there is room for the store again")

    def damaged(self, error: StoreError) -> None:
        """A record was to be read and is damaged; the next ones are not told of."""
        log.error("%s: stop this node and run crdtmail check", error)

    def name(self, replica: ReplicaId) -> str:
        """A replica as people know it."""
        heard = self._gossip.peers.heard.get(replica)
        return f"{replica:016x}" if heard is None else f"{heard.name} ({replica:016x})"

    def source(self, peer: str) -> str:
        """The name of whom a snapshot is taken over from, named by its address or by its replica."""
        name = self._gossip.peers.name_of(peer)
        return peer if name is None else name
