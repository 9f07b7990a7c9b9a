"""The alternative that the design decided against: one Yjs document a mailbox, flags in a tag-keyed map.

Each message is a map entry with its metadata; each flag is an entry under `message/flag/tag`, removed by
deleting the tags that were seen, which is an observed-remove set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pycrdt


class YjsMailbox:
    def __init__(self, state: bytes = b"", client: int = 1) -> None:
        self.doc: Any = pycrdt.Doc(client_id=client)
        self.messages: Any = self.doc.get("messages", type=pycrdt.Map)
        self.flags: Any = self.doc.get("flags", type=pycrdt.Map)
        if state:
            self.doc.apply_update(state)

    def add(self, ids: Sequence[str]) -> None:
        with self.doc.transaction():
            for uid, id in enumerate(ids, 1):
                self.messages[id] = [uid, 4000, 1_700_000_000]

    def flag(self, ids: Sequence[str], flag: str, tag: str) -> bytes:
        """The update that sets a flag on messages."""
        before = self.doc.get_state()
        with self.doc.transaction():
            for id in ids:
                self.flags[f"{id}/{flag}/{tag}"] = True
        return bytes(self.doc.get_update(before))

    def unflag(self, id: str, flag: str, tag: str) -> None:
        self.flags.pop(f"{id}/{flag}/{tag}")

    def state(self) -> bytes:
        return bytes(self.doc.get_update())
