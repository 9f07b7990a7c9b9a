"""What a node writes into its log of what befalls it, so that an operator finds it later."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.gossip.codec import encode_position
from crdtmail.gossip.filling import Filling
from crdtmail.gossip.messages import Position
from tests.nodes import run, single
from tests.test_gossip_http import EXCHANGE, STRANGER


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_node_on_a_copied_folder_says_that_it_takes_a_new_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with single(tmp_path / "original") as it:
            old = it.node.replica.id
        assert "is a copy" not in caplog.text
        shutil.copytree(tmp_path / "original", tmp_path / "copy")
        async with single(tmp_path / "copy") as it:
            new = it.node.replica.id
        assert f"this data folder is a copy: new replica id {new:016x} (was {old:016x})" in caplog.text

    run(test())


@pytest.mark.parametrize(
    ("is_retired", "why"), [(False, "as a peer shows"), (True, "the old one was retired by an operator")]
)
def test_a_node_whose_id_is_no_longer_its_own_says_that_it_takes_another_and_why(
    is_retired: bool, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            old = it.node.replica.id
            clock, retired = (Clock(), {old}) if is_retired else (Clock({old: 9}), set[ReplicaId]())
            told = encode_position(Position(ReplicaId(0xFF), "mx9", clock, 0, frozenset(retired)))
            assert (await it.ask("POST", EXCHANGE, data=told, headers=STRANGER)).status == 200
            new = it.node.replica.id
            assert f"new replica id {new:016x} (was {old:016x}): {why}" in caplog.text

    run(test())


def test_a_member_that_was_retired_elsewhere_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            it.node.gossip.peers.hear(it.node.now(), Position(ReplicaId(7), "", Clock(), 0))
            told = Position(ReplicaId(0xFF), "mx9", Clock(), 0, frozenset({ReplicaId(7)}))
            asked = encode_position(told)
            assert (await it.ask("POST", EXCHANGE, data=asked, headers=STRANGER)).status == 200
            assert "(0000000000000007) is retired by an operator elsewhere, as a peer says" in caplog.text

    run(test())


def test_a_snapshot_that_was_taken_over_is_told_with_its_size_and_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with single(tmp_path) as it:
            it.node.gossip.peers.hear(it.node.now(), Position(ReplicaId(0xFF), "mx3", Clock(), 0))
            it.node.gossip.last_filling = Filling("00000000000000ff", 0.0, staged=40_039, took_s=1.8)
            it.node.journal.look(is_full=False)
            assert "a snapshot is taken over: 40,039 messages in 1.8 s from mx3" in caplog.text

    run(test())
