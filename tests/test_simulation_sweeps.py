"""The sweeps of the simulations: their quick form says what it should, wherever it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from crdtmail.limits import MAX_REPLICAS
from simulations import sweep
from simulations.__main__ import main
from simulations.config import Config, links
from simulations.sweep import SWEEPS
from simulations.sweeps import redundancy, scaling
from simulations.sweeps.point import Row
from simulations.workers import workers

PICTURED = sorted(name for name in SWEEPS if SWEEPS[name].draw is not None)


@cache
def quick(name: str) -> list[Row]:
    """The rows of the quick form, measured here."""
    return [row for point in SWEEPS[name].points(True) for row in sweep.measure_point(name, point)]


def names(nodes: int) -> tuple[str, ...]:
    return tuple(f"mx{number}" for number in range(nodes))


# What they say ------------------------------------------------------------------------------------------


def test_without_loss_all_are_equal_soon_and_with_loss_some_time() -> None:
    for row in quick("convergence"):
        assert 0 < row["seconds"] < (5 if row["loss"] == 0 else 600), row


def test_a_change_is_sent_once_to_everybody_and_hardly_more() -> None:
    for row in quick("redundancy"):
        assert 1 <= row["redundancy"] < 2, row


def test_uids_are_given_anew_after_a_partition_and_only_then() -> None:
    for row in quick("renumberings"):
        if row["partition_s"] == 0:
            assert row["renumberings"] <= 0.1, row
        else:
            assert 0 < row["renumberings"] <= 2 * row["masters"], row


def test_the_model_is_close_to_what_is_measured() -> None:
    measured = [row for row in quick("scaling") if not row["is_model"]]
    for row in measured:
        assert row["redundancy"] >= 1, row
        assert abs(row["model_bytes_off"]) <= 0.15, row
        assert abs(row["model_redundancy_off"]) <= 0.25, row
        assert abs(row["model_seconds_off"]) <= 0.3, row  # of one run, where latencies are drawn
        assert abs(row["model_idle_off"]) <= 0.4, row


def test_every_topology_is_modelled_up_to_the_most_nodes_that_there_can_be() -> None:
    full = list(SWEEPS["scaling"].points(False))
    largest = {point.topology for point in full if point.is_model and point.nodes == MAX_REPLICAS}
    assert largest == {point.topology for point in full}
    star = scaling.measure(scaling.Point("star", 1000, 0, True))[0]
    assert (star["rounds"], star["redundancy"]) == (2, 1)


def test_clocks_grow_with_the_replicas() -> None:
    for smaller, larger in pairwise(quick("sizes")):
        added = larger["replicas"] - smaller["replicas"]
        assert larger["clock_bytes"] - smaller["clock_bytes"] == pytest.approx(14 * added, abs=3)
        # Only its UID gets longer, since every replica numbers in its own stripe.
        assert larger["mail_bytes"] - smaller["mail_bytes"] in range(4)


def test_a_comparison_does_not_grow_with_the_mailboxes() -> None:
    rows = quick("mailboxes")
    assert max(row["position_bytes"] for row in rows) - min(row["position_bytes"] for row in rows) <= 4
    assert all(100 < row["bytes_per_mailbox"] < 10_000 for row in rows)


# Topologies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topology", ["mesh", "chain", "ring", "star", "hubs 1", "hubs 3", "random 2", "random 5"]
)
@pytest.mark.parametrize("nodes", [2, 3, 10, 51])
def test_all_nodes_hang_together_and_call_each_other(topology: str, nodes: int) -> None:
    called = links(Config(nodes=names(nodes), topology=topology))
    assert list(called) == list(names(nodes))
    for node, peers in called.items():
        assert node not in peers
        assert len(set(peers)) == len(peers)
        assert all(node in called[peer] for peer in peers)
    reached = ["mx0"]
    for node in reached:
        reached += [peer for peer in called[node] if peer not in reached]
    assert len(reached) == nodes


@pytest.mark.parametrize("topology", ["random", "random 1", "random x", "hubs 0", "hubs -1", "tree", ""])
def test_other_topologies_do_not_exist(topology: str) -> None:
    with pytest.raises(ValueError, match="no topology"):
        links(Config(topology=topology))


def test_random_peers_are_as_many_as_was_said_but_for_a_few() -> None:
    called = links(Config(nodes=names(200), topology="random 4"))
    assert 3.8 < sum(map(len, called.values())) / 200 <= 4


def test_medians_are_of_the_runs_that_differ_in_their_seeds() -> None:
    rows: list[Row] = [
        {"loss": loss, "seed": seed, "seconds": loss + seed} for loss in (0, 10) for seed in (1, 2, 9)
    ]
    assert sweep.medians(rows) == [
        {"loss": 0, "seconds": 2.0, "runs": 3},
        {"loss": 10, "seconds": 12.0, "runs": 3},
    ]
    assert sweep.medians(rows[:1]) == sweep.medians([]) == []


# Where they are measured --------------------------------------------------------------------------------


def test_processes_measure_the_same() -> None:
    points = list(SWEEPS["redundancy"].points(True))
    done: list[int] = []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert sweep.measure(pool, "redundancy", points, done.append) == quick("redundancy")
    assert done == list(range(1, len(points) + 1))


@contextmanager
def cluster() -> Iterator[Any]:
    """Two Dask workers, threads of this process behind sockets on loopback."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
    ) as made:
        yield made


def test_a_dask_cluster_measures_the_same() -> None:
    with cluster() as made, workers(1, made.scheduler_address) as (executor, many):
        assert many == 2
        points = list(SWEEPS["redundancy"].points(True))
        assert sweep.measure(executor, "redundancy", points) == quick("redundancy")


def test_what_breaks_in_a_worker_is_raised() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(ValueError, match="no topology"),
    ):
        sweep.measure(pool, "redundancy", [redundancy.Point("tree", 3, 0)])


# On the command line, and drawn -------------------------------------------------------------------------


def test_the_command_prints_and_writes_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["sweep", "sizes", "--quick", "--jobs", "1", "--json", str(file)]) == 0
    assert "clock_bytes" in capsys.readouterr().out
    assert '"replicas": 200' in file.read_text()


@pytest.mark.parametrize(
    "arguments", [["unheard-of"], ["sizes", "--quick", "--jobs", "1", "--to", "picture"]]
)
def test_what_cannot_be_swept_or_drawn_is_said(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments]) == 2
    assert "sweep" in capsys.readouterr().err


@pytest.mark.parametrize("name", PICTURED)
def test_every_sweep_but_the_tables_can_be_drawn(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = sweep.draw(name, quick(name), tmp_path / "picture")
    assert {file.suffix for file in files} == {".png", ".svg"}
    assert all(file.stat().st_size for file in files)
