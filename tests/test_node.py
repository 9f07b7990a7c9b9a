"""A node under readers and writers at once, without the web."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from crdtmail.crdt.message import MessageId
from crdtmail.gossip.session import Timing
from crdtmail.node import Node
from crdtmail.replica import IncomingMessage
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.tables import Mailbox, Tables

ACCOUNT = "alice"


async def read_while_the_store_grows(folder: Path) -> int:
    """Readers of all kinds, while a writer makes the map grow again and again; what was written at last."""
    node = Node(LmdbStore(folder, first_map=1 << 20), "mx1", [], timing=Timing(), chance=random.Random(1))
    box, _ = await node.write(lambda replica, txn: replica.create_mailbox(txn, ACCOUNT, "INBOX"))
    is_over = False

    async def write() -> None:
        nonlocal is_over
        for block in range(40):
            names = [f"{block}-{number}-{'x' * 200}" for number in range(200)]
            messages = [IncomingMessage(MessageId(name), 1, 1, frozenset()) for name in names]
            await node.write(lambda replica, txn, new=messages: replica.add(txn, ACCOUNT, box, new))  # type: ignore[misc]
        is_over = True

    def total(_: Tables, mailbox: Mailbox) -> int:
        return mailbox.total

    async def read_mailbox() -> None:
        while not is_over:
            await node.read_mailbox(ACCOUNT, box, total)

    async def read_something() -> None:
        while not is_over:
            await node.read(lambda tables: tables.head())

    readers = [read_mailbox() for _ in range(8)] + [read_something() for _ in range(16)]
    async with asyncio.timeout(60):
        await asyncio.gather(write(), *readers)
        found = await node.read_mailbox(ACCOUNT, box, total)
    node.close()
    return found


def test_readers_and_growth_never_wait_for_each_other(tmp_path: Path) -> None:
    assert asyncio.run(read_while_the_store_grows(tmp_path)) == 40 * 200
