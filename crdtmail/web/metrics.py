"""A node's status as figures, in the text format that Prometheus reads.

Labels are bounded: kinds, reasons and results are ours, configured peers are the operator's, `Refusals` tells
at most `MAX_PEERS_NAMED` peers apart, and at most so many members are named here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import nlargest
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from crdtmail.limits import MAX_CONNECTIONS, MAX_PEERS_NAMED
from crdtmail.web.status import Alarm

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(status: dict[str, Any]) -> bytes:
    """The figures of a status, as `node_status` gives it."""
    registry = CollectorRegistry()
    registry.register(Figures(status))
    return generate_latest(registry)


class Figures(Collector):
    """One status, to be collected."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from self._node()
        yield from self._members()
        yield from self._peers()
        yield from self._refusals()

    def _node(self) -> Iterator[Metric]:
        status = self._status
        info = {name: status[name] for name in ("name", "replica", "version")}
        yield InfoMetricFamily("crdtmail", "The node: its name, its replica and its version.", info)
        alarms = GaugeMetricFamily("crdtmail_alarms", "Alarms that are raised now, by kind.", labels=["kind"])
        for kind in Alarm:
            alarms.add_metric([kind.value], sum(alarm["kind"] == kind for alarm in status["alarms"]))
        yield alarms
        yield _gauge("crdtmail_messages", "Messages that the node holds.", status["messages"])
        log = status["log"]
        yield _gauge("crdtmail_log_entries", "Changes in the log.", log["deltas"])
        yield _gauge("crdtmail_log_bytes", "Bytes of the changes in the log.", log["bytes"])
        yield _gauge("crdtmail_log_disk_bytes", "Bytes that the log's tables take.", log["diskBytes"])
        if (disk := status["disk"]) is not None:
            yield _gauge("crdtmail_store_bytes", "Bytes that the store's file has.", disk["storeBytes"])
            yield _gauge(
                "crdtmail_disk_free_bytes", "Bytes that are free on the store's disk.", disk["freeBytes"]
            )
        yield _gauge("crdtmail_connections", "Connections that are open.", status["connections"])
        yield _gauge("crdtmail_connections_limit", "Connections that may be open at once.", MAX_CONNECTIONS)
        writes = CounterMetricFamily(
            "crdtmail_writes", "Clients' writes: answered, or refused for want of room.", labels=["result"]
        )
        writes.add_metric(["answered"], status["writes"]["answered"])
        writes.add_metric(["store-full"], status["writes"]["withoutRoom"])
        yield writes
        yield _gauge(
            "crdtmail_snapshots_served", "Peers that are being filled from here.", status["snapshotsServed"]
        )
        filling = status["filling"] or {"messagesThere": 0, "messagesStaged": 0, "bytes": 0}
        yield _gauge(
            "crdtmail_filling", "Whether another node's state is being taken over.", bool(status["filling"])
        )
        yield _gauge(
            "crdtmail_filling_messages", "Messages that there are to take over.", filling["messagesThere"]
        )
        yield _gauge(
            "crdtmail_filling_staged_messages", "Messages of these that came.", filling["messagesStaged"]
        )
        yield _gauge("crdtmail_filling_bytes", "Bytes that were exchanged for it.", filling["bytes"])

    def _members(self) -> Iterator[Metric]:
        counting = [member for member in self._status["members"] if member["counts"]]
        yield _gauge("crdtmail_members", "Other nodes for which the log is kept.", len(counting))
        silence = GaugeMetricFamily(
            "crdtmail_member_silence_seconds",
            "Seconds since anything was last heard of the member.",
            labels=["member"],
        )
        held = GaugeMetricFamily(
            "crdtmail_member_held_log_entries",
            "Changes that are kept in the log because the member is not known to have them.",
            labels=["member"],
        )

        def urgency(member: dict[str, Any]) -> tuple[int, float]:
            return member["heldBack"], member["lastHeardSeconds"]

        for member in nlargest(MAX_PEERS_NAMED, counting, key=urgency):
            silence.add_metric([member["name"]], member["lastHeardSeconds"])
            held.add_metric([member["name"]], member["heldBack"])
        yield silence
        yield held

    def _peers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "crdtmail_peer_up", "Whether the last call of the configured peer succeeded.", labels=["peer"]
        )
        failing = GaugeMetricFamily(
            "crdtmail_peer_failing_seconds", "Seconds for which calls have failed.", labels=["peer"]
        )
        deltas = GaugeMetricFamily(
            "crdtmail_peer_lag_changes", "Changes that the peer is not known to have.", labels=["peer"]
        )
        seconds = GaugeMetricFamily(
            "crdtmail_peer_lag_seconds",
            "Seconds that the oldest of these is here; infinite if the log no longer has it.",
            labels=["peer"],
        )
        for peer in self._status["peers"]:
            label = [peer["address"]]
            up.add_metric(label, peer["reachable"])
            failing.add_metric(label, peer["failingSeconds"] or 0.0)
            if (lag := peer["lag"]) is not None:
                deltas.add_metric(label, lag["deltas"])
                seconds.add_metric(label, math.inf if lag["seconds"] is None else lag["seconds"])
        yield from (up, failing, deltas, seconds)

    def _refusals(self) -> Iterator[Metric]:
        of_peers = CounterMetricFamily(
            "crdtmail_refusals",
            "What was refused of a peer: by its replica where it called, its address where it answered.",
            labels=["peer", "name", "reason"],
        )
        of_nobody = CounterMetricFamily(
            "crdtmail_unauthenticated_requests",
            "Requests and connections that did not show who asks.",
            labels=["reason"],
        )
        for each in self._status["refusals"]:
            if each["peer"] is None:
                of_nobody.add_metric([each["reason"]], each["count"])
            else:
                of_peers.add_metric([each["peer"], each["name"] or "", each["reason"]], each["count"])
        yield from (of_peers, of_nobody)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)
