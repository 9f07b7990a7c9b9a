"""How a node's process ends, and what does not end it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from crdtmail import limits
from crdtmail.client import Client, Refused, Unreachable
from tests.nodes import NodeProcess, node_process, starting

WRITERS = 6
ALICE = "alice"


class Writers:
    """Clients that write as fast as they are answered, until the node will not take anything any more."""

    def __init__(self, turn: int) -> None:
        self.answered: set[str] = set()
        self.ends: list[BaseException] = []
        self._turn = turn
        self._progress = threading.Semaphore(0)

    def run(self, it: NodeProcess, *, writes: int) -> None:
        threads = [threading.Thread(target=self._write, args=(it.client(), n)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        for _ in range(writes):
            assert self._progress.acquire(timeout=30)
        it.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a writer waits for an answer that never comes"

    def _write(self, client: Client, number: int) -> None:
        for count in range(100_000):
            id = f"{self._turn}-{number}-{count}"
            try:
                client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
            except Unreachable as error:
                self.ends.append(error.__cause__ or error)
                return
            except Refused as error:
                self.ends.append(error)
                return
            self.answered.add(id)
            self._progress.release()


def test_a_node_that_is_told_to_stop_under_load_answers_what_it_took_and_keeps_it(tmp_path: Path) -> None:
    answered: set[str] = set()
    for turn in range(4):
        with node_process(tmp_path / "node") as it:
            if turn == 0:
                it.client().create_mailbox(ALICE, "INBOX")
            writers = Writers(turn)
            writers.run(it, writes=20 + 30 * turn)
            assert it.process.wait(limits.SHUTDOWN_S + 5) == 0
            answered |= writers.answered
            for end in writers.ends:
                is_clean = isinstance(end, ConnectionError) or (
                    isinstance(end, Refused) and end.status == 503 and end.type == "overloaded"
                )
                assert is_clean, f"half an answer: {end!r}"
    with node_process(tmp_path / "node") as it:
        held = {message["id"] for message in it.client().mailbox(ALICE, "INBOX", limit=100_000)["messages"]}
    assert answered <= held, "an answered write is lost"
    log = (tmp_path / "node.log").read_text().splitlines()
    assert all(" INFO crdtmail.daemon: " in line for line in log), "nothing to warn of"


def test_a_node_that_runs_out_of_file_descriptors_goes_on_when_it_has_some_again(tmp_path: Path) -> None:
    """Whoever asks for a new connection meanwhile waits; those that are there are answered."""
    with node_process(tmp_path / "node") as it:
        client = it.client()
        client.create_mailbox(ALICE, "INBOX")
        _, most = resource.prlimit(it.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(it.process.pid, resource.RLIMIT_NOFILE, (40, most))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection(("127.0.0.1", it.port), timeout=30))
            client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"id": "m1", "size": 1}]})
            assert len(client.mailbox(ALICE, "INBOX")["messages"]) == 1
        assert len(it.client().mailbox(ALICE, "INBOX")["messages"]) == 1
        assert it.process.poll() is None


def test_a_node_whose_data_file_is_cut_off_ends_with_a_word_in_its_log(tmp_path: Path) -> None:
    with node_process(tmp_path / "node") as it:
        client = it.client()
        client.create_mailbox(ALICE, "INBOX")
        for turn in range(3):
            new = [{"id": f"m{turn}-{n}", "size": 1} for n in range(1000)]
            client.at(ALICE, "INBOX", "POST", "/messages", {"messages": new})
    os.truncate(tmp_path / "node" / "data.mdb", 8 * resource.getpagesize())
    with starting(tmp_path / "node") as process:
        assert process.wait(30) == -signal.SIGBUS
    assert "Bus error" in (tmp_path / "node.log").read_text()
