"""The simulated network: what the weather does to messages, and what cut and clogged links do."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from simulations.network import Network, Weather

CALM = Weather()
MANY = 2000
SLACK = 0.045
"""Four standard deviations of a rate that is drawn so many times."""


class Wire:
    """A network with a clock of its own, and what has arrived of what was sent."""

    def __init__(
        self, weather: Weather = CALM, *, seed: int = 1, latency_s: tuple[float, float] = (0.001, 0.1)
    ) -> None:
        self.now_us = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.records: list[tuple[Any, ...]] = []
        self.reached: Counter[str] = Counter()
        self.arrived: list[bytes] = []
        self.times: list[int] = []
        self.network = Network(
            seed, latency_s, weather, lambda: self.now_us, self._at, self._record, self.reached
        )

    def _at(self, at_us: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (at_us, next(self._order), what))

    def _record(self, *details: Any) -> None:
        self.records.append(details)

    def send(self, body: bytes, link: tuple[str, str] = ("a", "b")) -> None:
        self.network.send(*link, "push", body, self._arrive)

    def send_many(self, link: tuple[str, str] = ("a", "b")) -> list[bytes]:
        """One message after the other, each of its own content."""
        bodies = [b"%08d" % number for number in range(MANY)]
        for body in bodies:
            self.send(body, link)
        return bodies

    def _arrive(self, body: bytes) -> None:
        self.arrived.append(body)
        self.times.append(self.now_us)

    def run(self, seconds: float = 10.0) -> None:
        until = self.now_us + int(seconds * 1e6)
        while self._heap and self._heap[0][0] <= until:
            self.now_us, _, what = heapq.heappop(self._heap)
            what()
        self.now_us = until


# Weather --------------------------------------------------------------------------------------------------


def test_in_calm_weather_every_message_arrives_once_and_whole() -> None:
    wire = Wire()
    bodies = wire.send_many()
    wire.run()
    assert sorted(wire.arrived) == bodies
    assert not wire.reached
    assert wire.network.under_way == 0


def test_a_message_takes_as_long_as_is_usual_and_mostly_less() -> None:
    wire = Wire(latency_s=(0.01, 0.05))
    wire.send_many()
    wire.run()
    assert min(wire.times) >= 10_000
    assert max(wire.times) < 50_000
    assert sorted(wire.times)[MANY // 2] < 30_000


def test_later_messages_overtake_earlier_ones() -> None:
    wire = Wire()
    bodies = wire.send_many()
    wire.run()
    assert wire.arrived != bodies


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_messages_are_lost_at_the_stated_rate(rate: float) -> None:
    wire = Wire(Weather(loss=rate))
    wire.send_many()
    wire.run()
    assert len(wire.arrived) / MANY == pytest.approx(1 - rate, abs=SLACK)
    assert wire.reached == {"message lost": MANY - len(wire.arrived)}


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_messages_are_doubled_at_the_stated_rate(rate: float) -> None:
    wire = Wire(Weather(duplication=rate))
    wire.send_many()
    wire.run()
    times = Counter(wire.arrived)
    assert set(times.values()) == {1, 2}
    assert sum(count == 2 for count in times.values()) / MANY == pytest.approx(rate, abs=SLACK)
    assert wire.network.under_way == 0


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_messages_are_delayed_at_the_stated_rate_and_for_no_longer_than_stated(rate: float) -> None:
    wire = Wire(Weather(delay=rate, longest_delay_s=3.0), latency_s=(0.001, 0.01))
    wire.send_many()
    wire.run()
    late = sum(time > 10_000 for time in wire.times)
    assert late / MANY == pytest.approx(rate, abs=SLACK)
    assert max(wire.times) <= 3_010_000


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_messages_are_cut_short_at_the_stated_rate(rate: float) -> None:
    wire = Wire(Weather(truncation=rate))
    bodies = wire.send_many()
    wire.run()
    assert len(wire.arrived) == MANY
    shorter = [body for body in wire.arrived if len(body) < 8]
    assert len(shorter) / MANY == pytest.approx(rate, abs=SLACK)
    assert all(any(body.startswith(short) for body in bodies) for short in shorter)
    assert {len(body) for body in shorter} == set(range(8))


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_one_bit_flips_at_the_stated_rate_and_any_bit_may(rate: float) -> None:
    wire = Wire(Weather(bit_flip=rate), latency_s=(0.001, 0.001))
    bodies = wire.send_many()
    wire.run()
    differences = [
        int.from_bytes(sent, "big") ^ int.from_bytes(arrived, "big")
        for sent, arrived in zip(bodies, wire.arrived, strict=True)
        if sent != arrived
    ]
    assert len(differences) / MANY == pytest.approx(rate, abs=SLACK)
    assert all(difference.bit_count() == 1 for difference in differences)
    assert len(set(differences)) > 40


def test_an_empty_message_cannot_be_damaged() -> None:
    wire = Wire(Weather(truncation=0.5, bit_flip=0.5))
    wire.send(b"")
    wire.run()
    assert wire.arrived == [b""]


def test_what_befalls_a_message_depends_on_nothing_that_happens_on_other_links() -> None:
    weather = Weather(loss=0.2, duplication=0.2, delay=0.2, truncation=0.2, bit_flip=0.2)
    alone, among_others = Wire(weather), Wire(weather)
    alone.send_many()
    for number in range(MANY):
        for link in (("b", "a"), ("a", "c"), ("c", "b"))[: number % 4]:
            among_others.network.send(*link, "push", b"other", lambda _: None)
        among_others.send(b"%08d" % number)
    alone.run()
    among_others.run()
    assert (among_others.arrived, among_others.times) == (alone.arrived, alone.times)


def test_links_and_directions_and_seeds_have_weather_of_their_own() -> None:
    fates = []
    for seed, link in ((1, ("a", "b")), (1, ("b", "a")), (1, ("a", "c")), (2, ("a", "b"))):
        wire = Wire(Weather(loss=0.5), seed=seed)
        wire.send_many(link)
        wire.run()
        fates.append(sorted(wire.arrived))
    assert len({tuple(fate) for fate in fates}) == len(fates)


# Cuts -----------------------------------------------------------------------------------------------------


def test_nothing_gets_into_a_cut_link() -> None:
    wire = Wire()
    wire.network.cut_off("a", "b")
    wire.send(b"lost")
    wire.run()
    wire.network.heal()
    wire.run()
    assert wire.arrived == []
    assert wire.reached["message into a cut"] == 1


def test_a_cut_swallows_what_is_under_way() -> None:
    wire = Wire()
    wire.send(b"under way")
    wire.network.cut_off("a", "b")
    wire.run()
    assert wire.arrived == []
    assert wire.network.under_way == 0


def test_a_cut_is_of_one_direction() -> None:
    wire = Wire()
    wire.network.cut_off("a", "b")
    for link in (("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")):
        wire.send("".join(link).encode(), link)
    wire.run()
    assert sorted(wire.arrived) == [b"ac", b"ba", b"cb"]


def test_healing_joins_every_link_once() -> None:
    wire = Wire()
    for _ in range(2):
        wire.network.cut_off("a", "b")
        wire.network.cut_off("b", "a")
    for _ in range(2):
        wire.network.heal()
    assert wire.records == [("cut", "a", "b"), ("cut", "b", "a"), ("join", "a", "b"), ("join", "b", "a")]
    wire.send(b"whole again")
    wire.run()
    assert wire.arrived == [b"whole again"]


# Clogs ----------------------------------------------------------------------------------------------------


def test_a_clogged_link_holds_everything_up_and_keeps_the_order() -> None:
    wire = Wire(Weather(delay=0.5))
    wire.network.clog("a", "b")
    bodies = wire.send_many()
    wire.run()
    assert wire.arrived == []
    assert wire.network.under_way == MANY
    wire.network.release("a", "b")
    wire.run()
    assert wire.arrived == bodies
    assert wire.reached["message held up"] == MANY


def test_what_is_sent_after_a_release_comes_behind_what_was_held_up() -> None:
    wire = Wire()
    wire.network.clog("a", "b")
    wire.send(b"held up")
    wire.run()
    wire.network.release("a", "b")
    wire.send(b"later")
    wire.run()
    assert wire.arrived == [b"held up", b"later"]


def test_a_clog_is_of_one_direction() -> None:
    wire = Wire()
    wire.network.clog("a", "b")
    wire.send(b"against", ("b", "a"))
    wire.run()
    assert wire.arrived == [b"against"]


def test_what_a_clogged_link_holds_is_lost_if_it_is_released_into_a_cut() -> None:
    wire = Wire()
    wire.network.clog("a", "b")
    wire.send(b"held up")
    wire.network.cut_off("a", "b")
    wire.network.release_all()
    wire.run()
    assert wire.arrived == []
    assert wire.network.under_way == 0


def test_releasing_a_link_that_is_free_does_nothing() -> None:
    wire = Wire()
    wire.network.release("a", "b")
    assert not wire.reached


# What is told ---------------------------------------------------------------------------------------------


def test_every_message_is_told_of_from_its_sending_to_its_end() -> None:
    wire = Wire(Weather(loss=0.2, duplication=0.2, truncation=0.2))
    wire.send_many()
    wire.run()
    kinds = Counter(record[0] for record in wire.records)
    ends = {record[2]: record[0] for record in wire.records if record[0] in ("arrive", "lost")}
    assert kinds["send"] == len(ends) == MANY
    assert kinds["damaged"] == wire.reached["message cut short"]
    assert wire.network.messages == MANY
    assert wire.network.bytes == 8 * MANY
