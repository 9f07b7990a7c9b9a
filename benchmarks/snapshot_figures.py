"""Figures of snapshots between nodes as processes: one change when the log is gone, and a new node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.material import ACCOUNT, RunningNode, fill, folder, node, open_replica
from benchmarks.report import Figure, Sizes
from crdtmail import LmdbStore
from crdtmail.client import Client

_PATIENCE_S = 600.0
_MAILBOXES = 200


def one_change_without_a_log(sizes: Sizes) -> Iterator[Figure]:
    """One flag changes while a node is away, and the other one keeps no log for it."""
    each = sizes.messages // 100
    shapes = {
        f"1 mailbox of {sizes.messages:,}": {"INBOX": sizes.messages},
        f"{_MAILBOXES} mailboxes of {each:,}": {f"box{n:03}": each for n in range(_MAILBOXES)},
    }
    compared = ("Dovecot dsync: 20.7 MB, 1.2 s", "Dovecot dsync: 31 MB, 3.0 s")
    for (what, boxes), theirs in zip(shapes.items(), compared, strict=True):
        with folder() as data:
            _fill(data / "a", boxes)
            with _without_log(data / "a") as a:
                with node(data / "b", a.address, name="b") as b:
                    _wait_until_equal(a, b)
                uid = "1"
                first = next(iter(boxes))
                change = {"uids": uid, "patch": {"keywords/$flagged": True}}
                a.client().at(ACCOUNT, first, "PATCH", "/messages", change)
                _wait_until(a.client(), lambda status: status["log"]["deltas"] == 0)
                with node(data / "b", a.address, name="b") as b:
                    took = _filling(b)
        yield Figure(
            f"one flag changed, log gone, {what}",
            f"{took['bytes'] / 1024:.1f} KiB, {took['seconds']:.3f} s",
            theirs,
            "<= 64 KiB and <= 0.3 s",
            took["bytes"] <= 65536 and took["seconds"] <= 0.3,
        )


def new_node(sizes: Sizes) -> Iterator[Figure]:
    """A node with an empty folder takes over everything."""
    count = 10 * sizes.messages
    with folder() as data:
        _fill(data / "a", {"INBOX": count // 2, **{f"box{n}": count // 100 for n in range(50)}})
        with _without_log(data / "a") as a:
            _wait_until(a.client(), lambda status: status["log"]["deltas"] == 0)
            with node(data / "b", a.address, name="b") as b:
                took = _filling(b)
                own, _ = b.resident_bytes()
    rate = took["messagesStaged"] / took["seconds"]
    yield Figure(
        f"a new node takes {took['messagesStaged']:,} messages",
        f"{rate:,.0f}/s, {took['bytes'] / took['messagesStaged']:.0f} B each; {own >> 20} MiB of memory",
        "",
        ">= 50,000 messages/s",
        rate >= 50_000,
    )


def _fill(data: Path, boxes: dict[str, int]) -> None:
    store = LmdbStore(data)
    replica = open_replica(store)
    for name, messages in boxes.items():
        fill(store, replica, name, messages)
    store.close()


def _without_log(data: Path) -> AbstractContextManager[RunningNode]:
    """A node that keeps no log for those that are away."""
    (data.parent / "short.toml").write_text("[log]\nkeep_mb = 0\n")
    return node(data, name="a", config=data.parent / "short.toml")


def _filling(of: RunningNode) -> dict[str, Any]:
    """How a node has taken over the snapshot that it needed."""
    client = of.client()
    _wait_until(client, lambda status: status["lastFilling"] is not None)
    found: dict[str, Any] = client.status()["lastFilling"]
    return found


def _wait_until_equal(a: RunningNode, b: RunningNode) -> None:
    there = a.client()
    _wait_until(b.client(), lambda status: status["clock"] == there.status()["clock"])


def _wait_until(client: Client, holds: Callable[[dict[str, Any]], bool]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not holds(client.status()):
        assert time.monotonic() < until, "the nodes do not come together"
        time.sleep(0.02)
