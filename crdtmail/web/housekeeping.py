"""What a node does now and then: prune its log, give up old snapshots, name members that are silent."""

from __future__ import annotations

import asyncio
import logging

from crdtmail.errors import RequestError, StoreError
from crdtmail.limits import HOUSE_S, SILENT_S
from crdtmail.node import Node

log = logging.getLogger(__name__)


async def keep_house(node: Node) -> None:
    """Until cancelled."""
    named: set[str] = set()
    while True:
        try:
            await node.keep_house()
        except (StoreError, RequestError) as error:
            log.warning("housekeeping is put off: %s", error)
        silent = {member.name: member for member in node.gossip.silent_members(SILENT_S)}
        for name in silent.keys() - named:
            days = (node.now() - silent[name].at) / 86_400
            log.warning(
                "member %s is silent for %.1f days; the log is kept for it.  Mend it, or: crdtmail retire %s",
                name,
                days,
                name,
            )
        named = set(silent)
        await asyncio.sleep(HOUSE_S)
