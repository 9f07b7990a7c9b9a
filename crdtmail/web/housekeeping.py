"""What a node does now and then: prune its log, give up old snapshots, name silent members and namesakes."""

from __future__ import annotations

import asyncio
import logging

from crdtmail.errors import RequestError, StoreError
from crdtmail.limits import HOUSE_S, SILENT_S
from crdtmail.node import Node
from crdtmail.web.status import twins

log = logging.getLogger(__name__)


async def keep_house(node: Node) -> None:
    """Until cancelled."""
    named: set[str] = set()
    while True:
        try:
            await node.keep_house()
        except (StoreError, RequestError) as error:
            log.warning("housekeeping is put off: %s", error)
        wrong = set(twins(node))
        for replica, member in node.gossip.peers.members(node.gossip.retired).items():
            if node.now() - member.at > SILENT_S:
                wrong.add(
                    f"member {member.name} is silent for more than {SILENT_S / 86_400:.0f} day(s); the log "
                    f"is kept for it.  Mend it, or: crdtmail retire {replica:016x}"
                )
        for text in sorted(wrong - named):
            log.warning("%s", text)
        named = wrong
        await asyncio.sleep(HOUSE_S)
