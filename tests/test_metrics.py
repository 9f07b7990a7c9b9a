"""`GET /metrics`: the status as figures; and a silent member is named wherever somebody may look."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import encode_delta
from crdtmail.crdt.delta import Create, Delta, MailboxId
from crdtmail.errors import Refusal
from crdtmail.gossip.messages import Position
from crdtmail.limits import MAX_PEERS_NAMED, SILENT_S
from crdtmail.node import Node
from crdtmail.replica import Attempt, Replica
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import Lsn
from crdtmail.web.housekeeping import tell_of_silence
from crdtmail.web.server import Service
from tests.nodes import Running, run, single, until
from tests.secured import bearer, serving, token
from tests.test_api import prepared
from tests.test_docs import blocks, first_cells, section

PEER = ReplicaId(0xFF)
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Figures:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def figures(it: Running) -> Figures:
    answer = await it.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.body.decode())


async def status(it: Running) -> dict[str, Any]:
    return cast(dict[str, Any], (await it.ask("GET", "/v1/status")).body)


def figure(found: Figures, name: str, /, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def silent_for(node: Node, seconds: float, *, name: str = "mx2", replica: ReplicaId = PEER) -> None:
    """A member without any delta was heard of for the last time so long ago."""
    node.gossip.peers.hear(node.now() - seconds, Position(replica, name, Clock(), 0))


def test_every_metric_is_documented_and_no_other(tmp_path: Path) -> None:
    async def names() -> set[str]:
        async with single(tmp_path) as it:
            text = (await it.ask("GET", "/metrics")).body.decode()
        return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))

    documented = first_cells(section("operating.md", "## Metrics"))
    assert len(documented) == len(set(documented))
    assert set(documented) == run(names())


def test_the_alert_rules_ask_for_metrics_and_labels_that_there_are() -> None:
    (rules,) = [block.text for block in blocks("operating.md") if "alert:" in block.text]
    expressions = re.findall(r"expr: (.*)", rules)
    assert len(expressions) == len(re.findall("alert:", rules)) == 3
    table = section("operating.md", "## Metrics")
    documented = dict(re.findall(r"^\| `(crdtmail_\w+)` \|([^|]*)\|", table, re.MULTILINE))
    asked = {name for expression in expressions for name in re.findall(r"crdtmail_\w+", expression)}
    assert asked <= documented.keys()
    for label in set(re.findall(r"\$labels\.(\w+)", rules)) - {"instance"}:
        assert any(f"`{label}`" in documented[name] for name in asked), label


def test_the_figures_are_those_of_the_status(tmp_path: Path) -> None:
    async def story() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1", "m2")
            silent_for(it.node, 50.0)
            it.node.gossip.refusals.count("00000000000000ff", Refusal.CHECKSUM, "damaged")
            it.node.gossip.refusals.count(None, Refusal.REPLAY, "again")
            told, found = await status(it), await figures(it)
            name, replica = told["name"], told["replica"]
            assert figure(found, "crdtmail_info", name=name, replica=replica, version=told["version"]) == 1
            assert figure(found, "crdtmail_messages") == told["messages"] == 2
            assert figure(found, "crdtmail_log_entries") == told["log"]["deltas"] == 2
            assert figure(found, "crdtmail_log_bytes") == told["log"]["bytes"] > 0
            assert figure(found, "crdtmail_log_disk_bytes") == told["log"]["diskBytes"] > 0
            assert told["disk"]["storeBytes"] == (tmp_path / "data.mdb").stat().st_size
            assert figure(found, "crdtmail_store_bytes") == told["disk"]["storeBytes"]
            assert figure(found, "crdtmail_disk_free_bytes") > 0
            assert figure(found, "crdtmail_connections") == told["connections"] == 1
            assert figure(found, "crdtmail_writes_total", result="answered") == 2
            assert figure(found, "crdtmail_writes_total", result="store-full") == 0
            assert figure(found, "crdtmail_members") == 1
            assert 50 <= figure(found, "crdtmail_member_silence_seconds", member="mx2") < 3600
            assert figure(found, "crdtmail_member_held_log_entries", member="mx2") == 2
            refused = {"peer": "00000000000000ff", "name": "mx2", "reason": "checksum"}
            assert figure(found, "crdtmail_refusals_total", **refused) == 1
            assert figure(found, "crdtmail_unauthenticated_requests_total", reason="replay") == 1

    run(story())


def test_what_the_log_holds_is_counted_also_below_the_floor_to_which_a_snapshot_raised_it(
    tmp_path: Path,
) -> None:
    def heard(replica: Replica, txn: Transaction) -> None:
        delta = Delta(Dot(PEER, 1), "alice", (Create(MailboxId(bytes(16))),))
        replica.receive(txn, delta, encode_delta(delta))

    def merge(replica: Replica, txn: Transaction) -> None:
        attempt = Attempt()
        comparison = replica.compare(txn, attempt)
        assert replica.merge(txn, attempt, comparison, Clock({PEER: 5}), is_repair=False)

    async def story() -> None:
        async with single(tmp_path) as it:
            await prepared(it, "m1")
            await it.node.write(heard)
            await it.node.write(merge)
            assert len(await it.node.read(lambda tables: list(tables.log_from(Lsn(0))))) == 3
            assert (await status(it))["log"]["deltas"] == 3

    run(story())


def test_how_far_a_peer_is_behind_is_a_figure(tmp_path: Path) -> None:
    async def story() -> None:
        async with single(tmp_path / "mx2") as second:
            address = second.address
            async with serving(tmp_path / "mx1", peers=(address,)) as (service, http):
                node = service.node

                async def told(name: str) -> float | None:
                    async with http.get(f"http://127.0.0.1:{service.port}/metrics") as response:
                        return parsed(await response.text()).get((name, (("peer", address),)))

                async def is_up() -> bool:
                    return await told("crdtmail_peer_up") == 1.0

                await until(is_up, "mx1 has called mx2")
                session = node.gossip.peers.sessions[address]
                assert await told("crdtmail_peer_failing_seconds") == 0
                session.failed(node.now() - 70.0, "gone")
                session._retry_at = node.now() + 1000
                await node.write(lambda replica, txn: replica.create_mailbox(txn, "alice", "INBOX"))
                assert await told("crdtmail_peer_up") == 0
                assert (await told("crdtmail_peer_failing_seconds") or 0) >= 70
                assert await told("crdtmail_peer_lag_changes") == 1
                assert (await told("crdtmail_peer_lag_seconds") or -1) >= 0

    run(story())


def test_metrics_want_the_token_that_the_status_wants(tmp_path: Path) -> None:
    async def answered(service: Service, http: Any, headers: dict[str, str]) -> list[int]:
        found = []
        for path in ("/v1/status", "/metrics"):
            url = f"http://127.0.0.1:{service.port}{path}"
            async with http.get(url, headers=headers) as response:
                found.append(response.status)
        return found

    async def story() -> None:
        data = tmp_path / "mx1"
        scopes = ("read", "write", "admin")
        given = {scope: token(data, scope, accounts=("nobody",), name=scope) for scope in scopes}
        async with serving(data) as (service, http):
            assert await answered(service, http, {}) == [401, 401]
            assert await answered(service, http, bearer("guessed")) == [401, 401]
            assert await answered(service, http, bearer(given["write"])) == [403, 403]
            assert await answered(service, http, bearer(given["read"])) == [200, 200]
            assert await answered(service, http, bearer(given["admin"])) == [200, 200]

    run(story())


def test_however_many_strangers_there_are_the_series_are_bounded(tmp_path: Path) -> None:
    """Those that are left are the members for which most is kept."""

    async def story() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            everything = it.node.head.clock
            for number in range(3 * MAX_PEERS_NAMED):
                replica = ReplicaId(1000 + number)
                known = Position(replica, f"stranger{number}", everything, 0)
                it.node.gossip.peers.hear(it.node.now(), known)
                it.node.gossip.refusals.count(f"{replica:016x}", Refusal.MALFORMED, "noise")
            silent_for(it.node, 0.0, name="behind")
            found = await figures(it)
            named = [dict(labels) for name, labels in found if name == "crdtmail_member_silence_seconds"]
            assert len(named) == MAX_PEERS_NAMED
            assert {"member": "behind"} in named
            refused = [labels for name, labels in found if name == "crdtmail_refusals_total"]
            assert len(refused) <= MAX_PEERS_NAMED + 1
            assert figure(found, "crdtmail_members") == 3 * MAX_PEERS_NAMED + 1

    run(story())


def test_names_and_texts_of_others_cannot_break_the_format(tmp_path: Path) -> None:
    async def story() -> None:
        async with single(tmp_path) as it:
            name = 'mx"2\\\ncrdtmail_alarms{kind="x"} 1'
            silent_for(it.node, 1.0, name=name)
            assert figure(await figures(it), "crdtmail_member_silence_seconds", member=name) >= 1

    run(story())


# A silent member ------------------------------------------------------------------------------------------


def test_a_silent_member_is_named_before_and_when_the_log_grows_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By status, log and metrics, each at both times; and in the log once at each."""

    async def story() -> None:
        async with single(tmp_path) as it:
            silent_for(it.node, SILENT_S + 1)
            told: dict[str, bool] = {}
            for changes, said in ((0, "will grow with the next change"), (1, "has grown by 1 change")):
                if changes:
                    await it.ask("POST", "/v1/accounts/alice/mailboxes", {"name": "INBOX"})
                caplog.clear()
                told = tell_of_silence(it.node, told)
                told = tell_of_silence(it.node, told)
                (line,) = [record.getMessage() for record in caplog.records]
                now = await status(it)
                (alarm,) = now["alarms"]
                assert alarm["kind"] == "silent-member"
                for text in (line, alarm["text"]):
                    assert "member mx2 is silent for 1.0 hours" in text
                    assert said in text
                    assert "crdtmail retire mx2" in text
                (member,) = now["members"]
                assert (member["name"], member["heldBack"]) == ("mx2", changes)
                found = await figures(it)
                assert figure(found, "crdtmail_alarms", kind="silent-member") == 1
                assert figure(found, "crdtmail_member_silence_seconds", member="mx2") > SILENT_S
                assert figure(found, "crdtmail_member_held_log_entries", member="mx2") == changes

    run(story())


def test_a_member_that_was_silent_and_is_again_is_told_of_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with single(tmp_path) as it:
            silent_for(it.node, SILENT_S + 1)
            told = tell_of_silence(it.node, {})
            silent_for(it.node, 0.0)
            told = tell_of_silence(it.node, told)
            assert told == {}
            assert (await status(it))["alarms"] == []
            silent_for(it.node, SILENT_S + 1)
            tell_of_silence(it.node, told)
            assert caplog.text.count("member mx2 is silent") == 2

    run(story())


def test_a_retired_member_is_named_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with single(tmp_path) as it:
            await prepared(it)
            silent_for(it.node, SILENT_S + 1)
            await it.node.retire(f"{PEER:016x}", force=False)
            assert tell_of_silence(it.node, {}) == {}
            now = await status(it)
            assert now["alarms"] == []
            assert [(m["counts"], m["heldBack"]) for m in now["members"]] == [(False, 0)]
            assert not [labels for name, labels in await figures(it) if "member_" in name]

    run(story())
