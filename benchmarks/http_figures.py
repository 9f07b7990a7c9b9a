"""Figures of whole nodes: over HTTP, between processes, from a cold start."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb

from benchmarks import load
from benchmarks.material import ACCOUNT, RunningNode, filled, folder, message_id, node
from benchmarks.report import Figure, Sizes, percentile, seconds
from benchmarks.slow_disk import slow_node
from crdtmail.client import Client

_MESSAGES = "/v1/accounts/alice@example.org/mailboxes/{}/messages"
_CLIENTS = 64


def _prepare(client: Client, messages: int = 100) -> str:
    """A mailbox with messages; the path at which their keywords change."""
    box = client.create_mailbox(ACCOUNT, "INBOX")
    new = [{"id": message_id(n), "size": 4000} for n in range(messages)]
    client.at(ACCOUNT, "INBOX", "POST", "/messages", {"messages": new})
    return _MESSAGES.format(box["id"])


def _patch() -> bytes:
    return json.dumps({"ids": [message_id(5)], "patch": {"keywords/$seen": True}}).encode()


def _fsync_ms(data: Path, samples: int) -> float:
    """The median time of one synced LMDB commit of a small record, in this folder."""
    env = lmdb.open(str(data / "fsync"), map_size=1 << 26)
    times = []
    for n in range(samples):
        started = time.perf_counter()
        with env.begin(write=True) as txn:
            txn.put(b"%d" % n, b"x" * 64)
        times.append(time.perf_counter() - started)
    env.close()
    return statistics.median(times) * 1000


def keyword_changes(sizes: Sizes) -> Iterator[Figure]:
    """One durable keyword change a request, from one client and from 64."""
    with folder() as data, node(data / "node") as it:
        path = _prepare(it.client())
        commit_ms = _fsync_ms(data, sizes.samples)
        load.rate(it.port, "PATCH", path, _patch(), clients=_CLIENTS, requests=sizes.requests)
        one = load.rate(it.port, "PATCH", path, _patch(), clients=1, requests=sizes.requests // 4)
        many = load.rate(it.port, "PATCH", path, _patch(), clients=_CLIENTS, requests=sizes.requests)
        # The same body through the same server and checks, naming a message that is not there: it is parsed,
        # routed and answered by the writer's thread, but there is nothing to write.
        empty = json.dumps({"ids": ["absent"], "patch": {"keywords/$seen": True}}).encode()
        ceiling = load.rate(it.port, "PATCH", path, empty, clients=_CLIENTS, requests=sizes.requests)
        listing = path.rsplit("/", 2)[0]
        plain = load.rate(it.port, "GET", listing, b"", clients=_CLIENTS, requests=sizes.requests)
    gain = many.per_s / one.per_s
    yield Figure(
        "durable keyword change, 1 client",
        f"{one.per_s:,.0f}/s, median {one.median_ms:.2f} ms",
        f"a bare synced LMDB commit: {commit_ms:.2f} ms",
    )
    yield Figure(
        f"durable keyword change, {_CLIENTS} clients",
        f"{many.per_s:,.0f}/s, median {many.median_ms:.1f} ms, {gain:.1f} x one client",
        f"the same request with nothing to write: {ceiling.per_s:,.0f}/s; a small GET: {plain.per_s:,.0f}/s",
        ">= 8 x one client, or the server's own ceiling",
        gain >= 8 or many.per_s >= 0.9 * ceiling.per_s,
    )


def keyword_changes_on_a_slow_disk(sizes: Sizes) -> Iterator[Figure]:
    """The same where a commit takes 5 ms longer, as on a disk without a write cache that survives."""
    with folder() as data, slow_node(data / "node", extra_s=0.005) as port:
        path = _prepare(Client(f"http://127.0.0.1:{port}"))
        one = load.rate(port, "PATCH", path, _patch(), clients=1, requests=sizes.requests // 16)
        many = load.rate(port, "PATCH", path, _patch(), clients=_CLIENTS, requests=sizes.requests)
    gain = many.per_s / one.per_s
    yield Figure(
        f"the same, commits 5 ms slower, {_CLIENTS} clients",
        f"{many.per_s:,.0f}/s, {gain:.1f} x one client",
        f"1 client: {one.per_s:,.0f}/s",
        ">= 8 x one client",
        gain >= 8,
    )


def visible_on_the_other_node(sizes: Sizes) -> Iterator[Figure]:
    """From the answer on A until B shows the change."""
    times = []
    with folder() as data, node(data / "b", name="b") as b, node(data / "a", b.address, name="a") as a:
        on_a, on_b = a.client(), b.client()
        _prepare(on_a)
        commit_ms = _fsync_ms(data, sizes.samples)
        token = on_a.at(ACCOUNT, "INBOX", "PATCH", "/messages", json.loads(_patch()))["token"]
        on_b.request("GET", "/v1/accounts", query={"token": token, "tokenWait": "20"})
        for n in range(sizes.samples):
            body = {"ids": [message_id(n % 100)], "patch": {"keywords/$flagged": True}}
            token = on_a.at(ACCOUNT, "INBOX", "PATCH", "/messages", body)["token"]
            started = time.perf_counter()
            on_b.request("GET", "/v1/accounts/nobody/mailboxes", query={"token": token, "tokenWait": "20"})
            times.append((time.perf_counter() - started) * 1000)
    target = 3 * commit_ms + 5
    median = statistics.median(times)
    yield Figure(
        "from the answer on A to visible on B",
        f"median {median:.2f} ms, p99 {percentile(times, 0.99):.2f} ms",
        f"three commits ({commit_ms:.2f} ms each) + 5 ms; Dovecot 2.3.19 dsync: 550 ms",
        f"<= {target:.2f} ms",
        median <= target,
    )


def merged_state(sizes: Sizes) -> Iterator[Figure]:
    """All messages of a mailbox as one JSON document."""
    with filled(sizes.messages) as (data, store, _, _):
        store.close()
        with node(data) as it:
            client = it.client()
            query = {"limit": str(sizes.messages)}
            client.at(ACCOUNT, "INBOX", "GET", query={"limit": "1"})  # the first reader's mark
            document = client.at(ACCOUNT, "INBOX", "GET", query=query)
            path = _MESSAGES.format(document["id"]).removesuffix("/messages") + f"?limit={sizes.messages}"
            times = [load.rate(it.port, "GET", path, b"", clients=1, requests=1).median_ms for _ in range(5)]
            dumps = seconds(lambda: json.dumps(document))
    took = statistics.median(times) / 1000
    yield Figure(
        f"merged state of {len(document['messages']):,} messages as JSON, over HTTP",
        f"{took:.2f} s",
        f"json.dumps of the same document alone: {dumps:.2f} s",
        "<= 1 s for 100,000",
        took <= 1,
    )


def cold_start(sizes: Sizes) -> Iterator[Figure]:
    """From the start of the process until it listens, with a large store; memory then."""
    with folder() as data:
        empty, empty_memory = _start(data / "empty")
    with filled(sizes.large) as (data, store, _, _):
        store.close()
        took, memory = _start(data)
    yield Figure(
        f"start with {sizes.large:,} messages",
        f"{took:.2f} s",
        f"an empty node: {empty:.2f} s",
        "< 1 s",
        took < 1,
    )
    yield Figure(
        "memory then (own; with the mapped file)",
        f"{memory[0] / 1e6:.0f} MB; {memory[1] / 1e6:.0f} MB",
        f"an empty node: {empty_memory[0] / 1e6:.0f} MB; {empty_memory[1] / 1e6:.0f} MB",
    )


def _start(data: Path) -> tuple[float, tuple[int, int]]:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with node(data) as it:
            times.append(time.perf_counter() - started)
            memory = _memory(it)
    return statistics.median(times), memory


def _memory(it: RunningNode) -> tuple[int, int]:
    it.client().status()
    return it.resident_bytes()
