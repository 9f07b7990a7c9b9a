"""How large clocks, and what carries them, get with the number of replicas that ever wrote anything.

A replica stays in every clock, also when its server is gone or got a new identity; so do 1,000 in all
(`MAX_REPLICAS`).  Sizes are those of the real encoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import dump, encode_delta, plain_clock
from crdtmail.crdt.delta import Add, Delta
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.names import make_mailbox_id
from crdtmail.crdt.uid import Uid
from crdtmail.gossip.codec import encode_answer, encode_position
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.session import Timing
from crdtmail.limits import MAX_TOKEN
from simulations.chance import generator
from simulations.sweeps.point import Row, Sweep

_ACCOUNT = "alice@example.org"
_MESSAGE = MessageId("1700000000.M123456P1234.mx1")


class Point(NamedTuple):
    replicas: int
    deltas: int
    """Of each replica."""


def points(quick: bool) -> Iterator[Point]:
    for replicas in (1, 10, 1000) if quick else (1, 2, 5, 10, 20, 50, 100, 200, 400, 500, 1000):
        yield Point(replicas, 1_000_000)


def measure(point: Point) -> list[Row]:
    chance = generator(point.replicas, "replicas")
    replicas = [ReplicaId(chance.getrandbits(64)) for _ in range(point.replicas)]
    clock = Clock(dict.fromkeys(replicas, point.deltas))
    position = Position(replicas[0], "mx1.example.org", clock, chance.getrandbits(64))
    asked = len(encode_position(position))
    answered = len(encode_answer(ExchangeAnswer(position, ())))
    plain = len(dump(plain_clock(clock)))
    token = ceil(plain * 4 / 3)
    return [
        point._asdict()
        | {
            "clock_bytes": plain,
            "exchange_bytes": asked + answered,
            "idle_bytes_per_node_and_s": (asked + answered) / Timing().interval_s,
            "token_chars": token,
            "is_token_accepted": token <= MAX_TOKEN,
            "bytes_of_new_mail_where_one_writes": _new_mail(replicas[0], Clock({replicas[0]: point.deltas})),
            "bytes_of_new_mail_where_all_write": _new_mail(replicas[0], clock),
        }
    ]


def _new_mail(origin: ReplicaId, written: Clock) -> int:
    """Bytes of a delta with one new message, for a mailbox into which these replicas have put some before."""
    message = NewMessage(_MESSAGE, Uid(100_000), 4000, 1_700_000_000, {})
    mailbox = make_mailbox_id(_ACCOUNT, "INBOX", 0)
    return len(
        encode_delta(Delta(Dot(origin, written[origin] + 1), _ACCOUNT, (Add(mailbox, (message,), written),)))
    )


SWEEP = Sweep(
    "Bytes of clocks and of what carries them, against the replicas that ever wrote", points, measure
)
