"""The simulated network: what is said on a link is lost, doubled, late, cut short or damaged; links are cut
and clogged.

A message is one request or one answer.  What befalls the nth message on a link depends on the seed, the
link and n, and not on what happens on others.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random

from crdtmail.crdt.clock import ReplicaId
from crdtmail.effects import PROTOCOL, Kind
from simulations.chance import generator

STALE_KEPT = 20  # requests that are remembered a link, to be sent again in another life


@dataclass(frozen=True, slots=True)
class Request:
    """What one node asks of another, as it is under way."""

    kind: Kind
    sender: ReplicaId
    body: bytes
    protocol: int = PROTOCOL


@dataclass(slots=True)
class Weather:
    """How likely each mishap is for a message: from 0 to 1."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: float = 0.0
    truncation: float = 0.0
    bit_flip: float = 0.0
    longest_delay_s: float = 3.0


class Network:
    """Carries messages between nodes by name.

    `at` runs a function at a time in microseconds; `record` takes a record of the trace; `reached` counts
    what has really happened; `is_up` says whether there is anybody at a node who takes a message.
    """

    def __init__(
        self,
        seed: int,
        latency_s: tuple[float, float],
        weather: Weather,
        now: Callable[[], int],
        at: Callable[[int, Callable[[], None]], None],
        record: Callable[..., None],
        reached: Counter[str],
        is_up: Callable[[str], bool] = lambda node: True,
    ) -> None:
        self._seed = seed
        self._latency_s = latency_s
        self.weather = weather
        self._now = now
        self._at = at
        self._record = record
        self._reached = reached
        self._is_up = is_up
        self._chances: dict[tuple[str, str], Random] = {}
        self.cut: dict[tuple[str, str], None] = {}
        self._clogged: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self.requests: defaultdict[tuple[str, str], deque[Request]] = defaultdict(
            lambda: deque(maxlen=STALE_KEPT)
        )
        self.under_way = 0
        """Messages that have yet to arrive."""
        self.messages = 0
        self.bytes = 0

    # Links ----------------------------------------------------------------------------------------------

    def cut_off(self, source: str, target: str) -> None:
        if (source, target) not in self.cut:
            self.cut[source, target] = None
            self._record("cut", source, target)

    def heal(self, sources: Collection[str] = (), targets: Collection[str] = ()) -> bool:
        """Undo every cut, or those between these nodes and those, both ways; whether there was one."""
        healed = [
            (one, other)
            for one, other in self.cut
            if not sources or (one in sources and other in targets) or (other in sources and one in targets)
        ]
        for source, target in healed:
            del self.cut[source, target]
            self._record("join", source, target)
        if healed:
            self._reached["partition healed"] += 1
        return bool(healed)

    def clog(self, source: str, target: str) -> None:
        self._clogged.setdefault((source, target), [])

    def release(self, source: str, target: str) -> None:
        """What was held up comes through, all at once and in order."""
        held = self._clogged.pop((source, target), [])
        if held:
            self._reached["clogged link released"] += 1
        for arrive in held:
            self._at(self._now() + 1, arrive)

    def release_all(self) -> None:
        for source, target in list(self._clogged):
            self.release(source, target)

    # Messages -------------------------------------------------------------------------------------------

    def send(
        self, source: str, target: str, what: str, body: bytes, deliver: Callable[[bytes], None]
    ) -> None:
        """Carry `body`; `deliver` is called with what arrives of it: once, never or twice."""
        link = (source, target)
        self.messages += 1
        self.bytes += len(body)
        message = self.messages
        self._record("send", source, target, message, what, len(body))
        loss, damage, where, slowness, delay, longer, twice = self._draw(link)
        weather = self.weather
        if link in self.cut:
            self._reached["message into a cut"] += 1
            self._record("lost", source, message)
            return
        if loss < weather.loss:
            self._reached["message lost"] += 1
            self._record("lost", source, message)
            return
        damaged = self._damaged(body, damage, where)
        if damaged is not body:
            self._record("damaged", source, message)

        def arrive() -> None:
            self.under_way -= 1
            if link in self.cut:  # it was under way when the cable was cut
                self._reached["message into a cut"] += 1
                self._record("lost", source, message)
                return
            self._record("arrive" if self._is_up(target) else "refused", target, message)
            deliver(damaged)

        latency = self._latency_us(slowness, delay, longer)
        copies = 1
        if twice < weather.duplication:
            self._reached["message doubled"] += 1
            copies = 2
        self.under_way += copies
        for copy in range(copies):
            if link in self._clogged:
                self._reached["message held up"] += 1
                self._clogged[link].append(arrive)
            else:
                self._at(self._now() + latency * (1 + 3 * copy), arrive)

    def _draw(self, link: tuple[str, str]) -> list[float]:
        """Seven numbers from 0 to below 1 for each message, whatever becomes of it."""
        chance = self._chances.get(link)
        if chance is None:
            chance = self._chances[link] = generator(self._seed, "link", *link)
        return [chance.random() for _ in range(7)]

    def _latency_us(self, slowness: float, delay: float, longer: float) -> int:
        """Mostly near the least; now and then much longer, so that later messages overtake."""
        least, usual = self._latency_s
        latency = least + (usual - least) * slowness * slowness
        if delay < self.weather.delay:
            self._reached["message delayed"] += 1
            latency += self.weather.longest_delay_s * longer
        return max(1, int(latency * 1e6))

    def _damaged(self, body: bytes, drawn: float, where: float) -> bytes:
        """What of it arrives."""
        weather = self.weather
        if not body or drawn >= weather.truncation + weather.bit_flip:
            return body
        if drawn < weather.truncation:
            self._reached["message cut short"] += 1
            return body[: int(where * len(body))]
        self._reached["bit flipped"] += 1
        bit = int(where * len(body) * 8)
        turned = bytearray(body)
        turned[bit // 8] ^= 1 << bit % 8
        return bytes(turned)
