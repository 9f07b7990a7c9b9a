"""Three nodes on a real network that is cut, blocked, slow and lossy; and a node that stands still.

They listen beyond loopback, each in a namespace that nobody else reaches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crdtmail.client import Client
from tests import endings
from tests.namespaces import Network, network, why_not
from tests.nodes import PATIENCE_S, free_ports, node_process, write_timing
from tests.rough_link import RoughLink, rough_links

NAMES = ("mx1", "mx2", "mx3")
ACCOUNT = "alice"
REASON = why_not()
namespaces = pytest.mark.skipif(bool(REASON), reason=REASON)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {PATIENCE_S:.0f} s: {what}")


def deliver(id: str, ack: int = 0) -> Callable[[Client], bool]:
    """Add a message; whether as many other replicas as wanted have it."""

    def add(client: Client) -> bool:
        path = f"/v1/accounts/{ACCOUNT}/mailboxes/name%3AINBOX/messages"
        query = {"ack": str(ack), "ackWait": "30"} if ack else None
        answer = client.request("POST", path, {"messages": [{"id": id, "size": 1}]}, query=query)
        return bool(answer["ack"]["reached"]) if ack else True

    return add


def ids(client: Client) -> set[str]:
    return {message["id"] for message in client.mailbox(ACCOUNT, "INBOX")["messages"]}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("three")
    with three_nodes(folder) as it:
        yield it
        endings.end_well(lambda: it.verify("mx1"), it.stop, [folder / name for name in NAMES])


@contextmanager
def three_nodes(folder: Path) -> Iterator[Network]:
    """Three nodes that all reach each other, and an INBOX."""
    timing = write_timing(folder)
    with network(*NAMES) as it:
        for name in NAMES:
            it.start(name, folder / name, "--config", str(timing))
        it.ask("mx1", lambda client: client.create_mailbox(ACCOUNT, "INBOX"))
        until(lambda: agrees(it), "the nodes find each other")
        until(
            lambda: all(is_reachable(it, a, b) for a in NAMES for b in NAMES if a != b), "all are reachable"
        )
        yield it


def agrees(it: Network) -> bool:
    verdict = it.verify("mx1")
    return verdict.agrees and verdict.in_step


def is_reachable(it: Network, name: str, other: str) -> bool:
    return bool(it.peer_status(name, other)["reachable"])


def assert_all_have(it: Network, *wanted: str) -> None:
    until(lambda: agrees(it), "all nodes agree")
    for name in NAMES:
        assert it.ask(name, ids) >= set(wanted)


@namespaces
def test_a_node_that_is_cut_off_takes_mail_and_hears_of_all_when_the_cut_heals(three: Network) -> None:
    with three.isolated("mx3"):
        until(lambda: not is_reachable(three, "mx3", "mx1"), "mx3 says that it does not reach mx1")
        until(lambda: not is_reachable(three, "mx1", "mx3"), "mx1 says that it does not reach mx3")
        assert three.ask("mx1", deliver("with-the-most", ack=1))
        assert three.ask("mx3", deliver("alone"))
        assert "with-the-most" not in three.ask("mx3", ids)
        assert three.peer_status("mx1", "mx3")["lag"]["deltas"] == 1
    assert_all_have(three, "with-the-most", "alone")
    until(lambda: is_reachable(three, "mx1", "mx3"), "mx1 reaches mx3 again")


@namespaces
def test_a_one_way_cut_shows_on_the_side_that_cannot_reach_and_stops_no_mail(three: Network) -> None:
    """mx1 cannot call mx2, nor mx3 mx2; mx2 calls both, and brings and fetches everything.

    It is started anew, so that the others have to call again: old connections would need 10 s to fail.
    """
    with three.blocked("mx1", "mx2"), three.blocked("mx3", "mx2"):
        three.restart("mx2")
        until(lambda: not is_reachable(three, "mx1", "mx2"), "mx1 says that it does not reach mx2")
        until(lambda: is_reachable(three, "mx2", "mx1"), "mx2 says that it reaches mx1")
        assert three.peer_status("mx1", "mx2")["error"]
        assert three.ask("mx2", deliver("out", ack=2)), "what mx2 has reaches the others"
        assert three.ask("mx1", deliver("in", ack=2)), "what mx1 has is fetched by mx2"
        assert not is_reachable(three, "mx1", "mx2")
    until(lambda: is_reachable(three, "mx1", "mx2"), "mx1 reaches mx2 again")
    assert_all_have(three, "out", "in")


@namespaces
def test_a_node_that_stands_still_holds_nobody_up(three: Network) -> None:
    with three.stopped("mx3"):
        assert three.ask("mx1", deliver("meanwhile", ack=1)), "the other two go on"
        until(lambda: three.peer_status("mx1", "mx3")["lag"]["deltas"] == 1, "mx1 says that mx3 is behind")
        assert is_reachable(three, "mx1", "mx2")
    assert_all_have(three, "meanwhile")


@namespaces
def test_nodes_converge_over_a_slow_network_that_loses_packets(three: Network) -> None:
    for name in NAMES:
        if not three.slow_down(name, "delay", "30ms", "10ms", "loss", "5%"):
            pytest.skip("this kernel has no netem; the test below relays instead")
    for number in range(10):
        assert three.ask(NAMES[number % 3], deliver(f"m{number}"))
    assert_all_have(three, *(f"m{number}" for number in range(10)))
    for name in NAMES:
        three.speed_up(name)


def test_nodes_converge_over_relays_that_are_slow_and_break_connections(tmp_path: Path) -> None:
    """On loopback: for this, neither root nor netem is needed."""
    timing = write_timing(tmp_path)
    ports = free_ports(2)
    links = [RoughLink(port, delay_s=0.01, loss=0.1, seed=n) for n, port in enumerate(ports)]
    with (
        rough_links(*links),
        node_process(
            tmp_path / "mx1",
            "--config",
            str(timing),
            "--peer",
            links[1].address,
            listen=f"127.0.0.1:{ports[0]}",
        ) as one,
        node_process(
            tmp_path / "mx2",
            "--config",
            str(timing),
            "--peer",
            links[0].address,
            listen=f"127.0.0.1:{ports[1]}",
        ) as two,
    ):
        clients = one.client(), two.client()
        clients[0].create_mailbox(ACCOUNT, "INBOX")
        until(lambda: len(clients[1].mailboxes(ACCOUNT)) == 1, "the mailbox arrives")
        wanted: set[str] = set()
        # A quick node's changes travel in few pieces, of which each may break its connection.
        while len(wanted) < 60 or not any(link.broken for link in links):
            assert len(wanted) < 3000, "no connection has broken"
            assert deliver(f"m{len(wanted)}")(clients[len(wanted) % 2])
            wanted.add(f"m{len(wanted)}")
        until(lambda: ids(clients[0]) == ids(clients[1]) == wanted, "both have everything")
        until(lambda: clients[0].status()["digest"] == clients[1].status()["digest"], "both hold the same")
