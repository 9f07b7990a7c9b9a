"""What a node does now and then: prune its log, give up old snapshots, name silent members and namesakes."""

from __future__ import annotations

import asyncio
import logging

from crdtmail.errors import RequestError, StoreError
from crdtmail.limits import HOUSE_S, SILENT_S
from crdtmail.node import Node
from crdtmail.web.status import silence, twins

log = logging.getLogger(__name__)


async def keep_house(node: Node) -> None:
    """Until cancelled."""
    told: dict[str, bool] = {}
    named: set[str] = set()
    while True:
        try:
            await node.keep_house()
        except (StoreError, RequestError) as error:
            log.warning("housekeeping is put off: %s", error)
        except Exception as error:  # a bug; the rest goes on, and it may do better next time
            log.critical("housekeeping: this node has a bug: %s", error, exc_info=error)
        told = tell_of_silence(node, told)
        alike = set(twins(node))
        for text in sorted(alike - named):
            log.warning("%s", text)
        named = alike
        await asyncio.sleep(HOUSE_S)


def tell_of_silence(node: Node, told: dict[str, bool]) -> dict[str, bool]:
    """Log each member that is silent: once, and again when the log begins to grow for it.

    `told`, and what is returned for the next time: the members that are silent, and whether the log grew.
    """
    silent = {}
    for member in node.gossip.silent_members(SILENT_S):
        silent[member.name] = grows = node.gossip.held_back(member) > 0
        if member.name not in told or (grows and not told[member.name]):
            log.warning("%s", silence(node, member))
    return silent
