"""How large clocks, and what carries them, get with the number of replicas that ever wrote anything.

A replica stays in every clock, also when its server is gone or has got a new identity, up to `MAX_REPLICAS`.
Sizes are those of the real encoders.  An addition names the replicas that keep its mailbox alive: those that
have put something into it.  A move names all.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import dump, encode_delta, plain_clock
from crdtmail.crdt.delta import Add, Delta, Move, Operation
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
_INBOX = make_mailbox_id(_ACCOUNT, "INBOX", 0)
_ARCHIVE = make_mailbox_id(_ACCOUNT, "Archive", 0)
_MESSAGE = NewMessage(MessageId("1700000000.M123456P1234.mx1"), Uid(100_000), 4000, 1_700_000_000, ())
_DELTAS = 1_000_000
"""Of each replica: what lies between 65,536 and 4,294,967,295 takes the same five bytes."""


class Point(NamedTuple):
    replicas: int


def points(quick: bool) -> Iterator[Point]:
    for replicas in (1, 10, 1000) if quick else (1, 2, 5, 10, 20, 50, 100, 200, 400, 500, 1000):
        yield Point(replicas)


def measure(point: Point) -> list[Row]:
    chance = generator(point.replicas, "replicas")
    replicas = [ReplicaId(chance.getrandbits(64)) for _ in range(point.replicas)]
    clock = Clock(dict.fromkeys(replicas, _DELTAS))
    first = replicas[0]
    position = Position(first, "mx1.example.org", clock, chance.getrandbits(64))
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
            "new_mail_bytes_one_writer": _delta_size(
                clock, Add(_INBOX, (_MESSAGE,), Clock({first: _DELTAS}))
            ),
            "new_mail_bytes_all_write": _delta_size(clock, Add(_INBOX, (_MESSAGE,), clock)),
            "move_bytes": _delta_size(clock, Move(_INBOX, _ARCHIVE, (_MESSAGE,), clock)),
        }
    ]


def _delta_size(clock: Clock, operation: Operation) -> int:
    origin, seq = next(iter(clock.items()))
    return len(encode_delta(Delta(Dot(origin, seq + 1), _ACCOUNT, (operation,))))


SWEEP = Sweep(
    "Bytes of clocks and of what carries them, against the replicas that ever wrote", points, measure
)
