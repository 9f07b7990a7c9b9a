"""Everything that reads what comes from outside, each with right inputs to begin from and one law.

The law: an input is taken, or refused with the one error that is documented, and nothing else is raised; what
is taken is written as it was read.  The tests, `python -m tests.long fuzz` and atheris run the `TARGETS`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import cbor2

from crdtmail import config
from crdtmail.crdt import codec
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import (
    Add,
    Create,
    DeleteMailbox,
    Delta,
    DirectoryUpdate,
    Expunge,
    Keywords,
    MailboxId,
    Move,
    Renumber,
)
from crdtmail.crdt.directory import Directory
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.names import check_message_id, make_mailbox_id
from crdtmail.crdt.uid import Uid
from crdtmail.errors import CannotCalculateChanges, ConfigError, PeerError, RequestError, SourceError
from crdtmail.gossip import codec as gossip
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.limits import MAX_SIZE, MAX_TIME
from crdtmail.sources import open_source
from crdtmail.store.tables import Mailbox, Modseq
from crdtmail.web import documents, requests
from tests import mutation
from tests.masters import ACCOUNT, Master

ONE, TWO = ReplicaId(1), ReplicaId(2)
INBOX, WORK = (make_mailbox_id(ACCOUNT, name, 0) for name in ("INBOX", "Work"))
CLOCK = Clock({ONE: 3, TWO: 2**40, ReplicaId(2**64 - 1): 1})


@dataclass(frozen=True)
class Target:
    """What reads an input, some right inputs, and how to make one that is almost right from a right one."""

    take: Callable[[bytes], None]
    seeds: Sequence[bytes]
    refusal: type[Exception]
    change: Callable[[random.Random, bytes], bytes] = mutation.bytes_like

    def input(self, chance: random.Random) -> bytes:
        seed = chance.choice(self.seeds)
        change = chance.choice([self.change, self.change, mutation.bytes_like])
        return change(chance, seed)

    def run(self, data: bytes) -> bool:
        """Whether the input was taken.  Raises whatever breaks the law."""
        try:
            self.take(data)
        except self.refusal:
            return False
        return True


# Deltas and gossip ----------------------------------------------------------------------------------------


def _messages(*ids: str) -> tuple[NewMessage, ...]:
    return tuple(
        NewMessage(MessageId(id), Uid(n), 10**n, 1_700_000_000, ("$seen", "work"))
        for n, id in enumerate(ids, start=1)
    )


def _create(author: ReplicaId, mailbox: MailboxId, name: str) -> bytes:
    return Directory(b"", author).create(mailbox, name)


DELTAS = [
    Delta(Dot(TWO, 1), ACCOUNT, (Create(INBOX), DirectoryUpdate(_create(TWO, INBOX, "INBOX"), Clock()))),
    Delta(Dot(TWO, 1), ACCOUNT, (Add(WORK, _messages("a", "é" * 100, "c"), Clock()),)),
    Delta(Dot(TWO, 1), ACCOUNT, (Move(WORK, INBOX, _messages("m1"), Clock({ONE: 2})),)),
    Delta(
        Dot(TWO, 1),
        ACCOUNT,
        (Keywords(WORK, (MessageId("m1"),), ("$flagged",), ("$seen",), Clock({ONE: 2})),),
    ),
    Delta(Dot(TWO, 1), ACCOUNT, (Expunge(WORK, (MessageId("m1"), MessageId("m2")), Clock({ONE: 2})),)),
    Delta(Dot(TWO, 1), ACCOUNT, (Renumber(WORK, ((MessageId("m1"), Uid(77)),), Clock({ONE: 2})),)),
    Delta(
        Dot(TWO, 1), ACCOUNT, (DeleteMailbox(WORK, Clock({ONE: 2})), Expunge(WORK, (MessageId("m1"),), CLOCK))
    ),
]
ENCODED = [codec.encode_delta(delta) for delta in DELTAS]
POSITION = Position(ONE, "mx1", CLOCK, 2**64 - 1)


def _take_delta(data: bytes) -> None:
    delta = codec.decode_delta(data)
    assert codec.encode_delta(delta) == data


def _take_position(data: bytes) -> None:
    assert gossip.encode_position(gossip.decode_position(data)) == data


def _take_answer(data: bytes) -> None:
    assert gossip.encode_answer(gossip.decode_answer(data)) == data


def _take_push(data: bytes) -> None:
    assert gossip.encode_push(gossip.decode_push(data)) == data


def _take_clock(data: bytes) -> None:
    assert gossip.encode_clock(gossip.decode_clock(data)) == data


def _as_cbor(chance: random.Random, data: bytes) -> bytes:
    """Change the values, not the bytes, and put the right checksum on what comes out of it."""
    is_delta = data in ENCODED
    is_push = data == PUSH
    plain = cbor2.loads(data)
    if is_delta:
        plain = plain[:-1]
    changed = mutation.value_like(chance, plain)
    with suppress(Exception):  # not every value has an encoding
        payload = cbor2.dumps(changed, canonical=chance.randrange(4) > 0)
        if is_delta and type(changed) is list and len(changed) < 23:
            payload = bytes([payload[0] + 1]) + payload[1:]
        return payload if is_push else payload + b"\x44" + zlib.crc32(payload).to_bytes(4, "big")
    return mutation.bytes_like(chance, data)


PUSH = gossip.encode_push(ENCODED[:3])


@cache
def _master() -> Master:
    master = Master(1, knows=[2])
    work = master.create("Work")
    assert work == WORK
    master.add(work, "m1", "m2")
    return master


class _GivenUp(Exception):
    pass


def _take_received(data: bytes) -> None:
    """Apply it to a replica with some mail, and give that up again: it must still add up, or be refused."""
    master = _master()
    delta = codec.decode_delta(data)

    def receive(txn: Any) -> None:
        outcome = master.replica.receive(txn, delta, data)
        from crdtmail.store.tables import Tables

        if outcome.name == "APPLIED":
            assert Tables(txn).head().clock.covers(delta.dot)
        raise _GivenUp

    with suppress(_GivenUp):
        master.store.transact(receive)


# The directory --------------------------------------------------------------------------------------------


def _updates() -> list[bytes]:
    directory = Directory(b"", TWO)
    updates = [
        directory.create(INBOX, "INBOX"),
        directory.put_script("main", "keep;\nstop;\n"),
        directory.put_script("main", "keep;\ndiscard;\n"),
        directory.rename([(INBOX, "INBOX", "Old")]),
        directory.describe(INBOX, role="archive", annotations={"/c": "é"}),
        directory.delete_script("main"),
        directory.put_script("main", "again"),
    ]
    return [*updates, directory.state()]


UPDATES = _updates()


def _take_update(data: bytes) -> None:
    directory = Directory(b"", ONE)
    directory.merge(data)
    directory.entries(), directory.scripts(), directory.active_script
    directory.create(WORK, "Work")
    directory.put_script("main", "keep;\n")
    Directory(b"", TWO).merge(directory.state())


def _take_later_update(data: bytes) -> None:
    """On a document that has what most updates build on."""
    directory = Directory(UPDATES[-1], ONE)
    directory.merge(data)
    directory.put_script("main", "keep;\n")
    Directory(b"", TWO).merge(directory.state())


# Requests -------------------------------------------------------------------------------------------------

TOKEN = requests.encode_token(CLOCK)
MESSAGES = {"id": "m1", "size": 1, "receivedAt": "2026-11-24T06:51:41+01:00", "keywords": {"$Seen": True}}
BODIES: list[dict[str, Any]] = [
    {"messages": [MESSAGES, {"size": 2**40}], "ifAbsent": True, "wantUids": False},
    {"ids": ["m1", "m2"], "patch": {"keywords/$seen": True, "keywords/a~1b": None}},
    {"update": {"m1": {"keywords/$seen": None}, "m2": {"keywords/work": True}}},
    {"uids": "1:5,9,20:*", "patch": {"keywords/$deleted": True}},
    {"uids": "1", "to": "name:Archive/2026", "wantUids": True},
    {"name": "Work/é", "role": "archive", "isSubscribed": True, "annotations": {"/private/comment": "x"}},
]
UID_SETS = ["1:5,9,20:*", "4294967295", "7:3,1", "1:*"]
BOX = Mailbox(number=7, modseq=Modseq(99))
STATES = [documents.encode_state(ONE, BOX, position) for position in ((5, 2), (99, 2**32 - 1))]


def _take_token(data: bytes) -> None:
    clock = requests.decode_token(data.decode("utf-8", "surrogateescape"))
    assert requests.decode_token(requests.encode_token(clock)) == clock


def _take_uid_set(data: bytes) -> None:
    for first, last in requests.uid_set(data.decode("utf-8", "surrogateescape")):
        assert 1 <= first <= last < 2**32


def _take_state(data: bytes) -> None:
    modseq, uid = documents.decode_state(ONE, BOX, data.decode("utf-8", "surrogateescape"))
    assert 0 <= modseq <= BOX.modseq
    assert 0 <= uid < 2**32


def _take_body(data: bytes) -> None:
    try:
        body = requests.as_object(json.loads(data), "the body")
    except (ValueError, RecursionError):
        raise RequestError from None  # as `json_object` does
    refusals = []
    readers: list[Callable[[], object]] = [
        lambda: requests.incoming(body.get("messages"), now=0, new_id=lambda: "new"),
        lambda: requests.keyword_changes(body),
        lambda: requests.selection(body),
        lambda: requests.mailbox_name(body.get("name")),
        lambda: requests.text(body.get("role"), "role", 64),
        lambda: requests.mailbox_id(body.get("to")),
        lambda: requests.boolean(body.get("wantUids"), "wantUids"),
    ]
    for reader in readers:
        try:
            reader()
        except RequestError as error:
            refusals.append(error)
    if len(refusals) == len(readers):
        raise refusals[0]


def _as_json(chance: random.Random, data: bytes) -> bytes:
    with suppress(UnicodeEncodeError):
        return json.dumps(
            mutation.value_like(chance, json.loads(data)), ensure_ascii=chance.random() < 0.5
        ).encode()
    return mutation.bytes_like(chance, data)


def _as_text(chance: random.Random, data: bytes) -> bytes:
    return mutation.text_like(chance, data.decode()).encode("utf-8", "surrogatepass")


# Files ----------------------------------------------------------------------------------------------------

CONFIG = """
name = "mx1"
data = "/var/lib/crdtmail"
listen = "127.0.0.1:7420"
peers = ["http://mx2.example.org:7420", "mx3", "https://[::1]:1"]
[gossip]
interval = 5
grace = 0.5
"""
MBOX = """From alice@example.org Thu Nov  9 22:33:52 2023
Status: RO
X-Status: AF
X-Keywords: work $Label1
Content-Length: 6

hello

From "b o b" Thu Nov  9 22:33 +0100 2023
Subject: x

y
"""
UIDLIST = "3 V1700000000 N4 G0123\n1 W100 Gabc :1700.M1P2.host,S=10\n3 :1701.M1P2.host\n"
NAMES = ["1700.M1P2.host,S=10,W=12:2,FSab", "1701.M1P2.host:2,", "cur", "1702.host"]


class _Settings:
    """A configuration file that is not on a disk."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_text(self, encoding: str) -> str:
        return self._data.decode(encoding)


def _take_config(data: bytes) -> None:
    config.load(_Settings(data), {})  # type: ignore[arg-type]


@cache
def _folder(_: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crdtmail-fuzz-"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _read_all(path: Path) -> None:
    for folder in open_source(path):
        for message in folder.messages():
            check_message_id(message.id)
            assert 0 <= message.size <= MAX_SIZE
            assert 0 <= message.received_at <= MAX_TIME


def _take_mbox(data: bytes) -> None:
    file = _folder(os.getpid()) / "mbox"
    file.write_bytes(data)
    _read_all(file)


def _take_maildir(data: bytes) -> None:
    """The uidlist, and behind a NUL the name of a message and of a folder."""
    uidlist, _, name = data.partition(b"\0")
    root = _folder(os.getpid()) / "Maildir"
    shutil.rmtree(root, ignore_errors=True)
    for part in ("cur", "new"):
        (root / part).mkdir(parents=True)
    (root / "dovecot-uidlist").write_bytes(uidlist)
    with suppress(OSError, ValueError):  # no name that a disk can hold
        Path(os.fsdecode(os.fsencode(root / "cur") + b"/" + name)).write_bytes(b"x\n")
        Path(os.fsdecode(os.fsencode(root) + b"/." + name + b"/cur")).mkdir(parents=True)
    _read_all(root)


def _text(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


TARGETS = {
    "delta": Target(_take_delta, ENCODED, PeerError, _as_cbor),
    "delta, received": Target(_take_received, ENCODED, PeerError, _as_cbor),
    "position": Target(_take_position, [gossip.encode_position(POSITION)], PeerError, _as_cbor),
    "answer": Target(
        _take_answer,
        [gossip.encode_answer(ExchangeAnswer(POSITION, tuple(ENCODED[:2])))],
        PeerError,
        _as_cbor,
    ),
    "push": Target(_take_push, [PUSH], PeerError, _as_cbor),
    "clock": Target(_take_clock, [gossip.encode_clock(CLOCK)], PeerError, _as_cbor),
    "directory update": Target(_take_update, UPDATES, PeerError),
    "later directory update": Target(_take_later_update, UPDATES, PeerError),
    "token": Target(_take_token, _text(TOKEN), RequestError, _as_text),
    "UID set": Target(_take_uid_set, _text(*UID_SETS), RequestError, _as_text),
    "state": Target(_take_state, _text(*STATES), CannotCalculateChanges, _as_text),
    "body": Target(_take_body, [json.dumps(body).encode() for body in BODIES], RequestError, _as_json),
    "configuration": Target(_take_config, _text(CONFIG), ConfigError, _as_text),
    "mbox": Target(_take_mbox, _text(MBOX), SourceError, _as_text),
    "Maildir": Target(_take_maildir, _text(*(f"{UIDLIST}\0{name}" for name in NAMES)), SourceError, _as_text),
}
_SLOW = {"Maildir": 50, "mbox": 10, "directory update": 5, "later directory update": 5, "delta, received": 3}
"""How many times as long an input takes there, roughly: they get so many times fewer."""


class Broken(AssertionError):
    """An input broke the law."""


def try_some(name: str, seed: int, inputs: int) -> tuple[str, int, int, float]:
    """The target, the number of inputs, how many of them were taken, and the seconds that it took."""
    target, chance, taken = TARGETS[name], random.Random(f"{name} {seed}"), 0
    begun = time.monotonic()
    for _ in range(inputs):
        data = target.input(chance)
        try:
            taken += target.run(data)
        except BaseException as error:
            raise Broken(
                f"{name}, seed {seed}: {type(error).__name__}: {error}; input {data.hex()[:1000]}"
            ) from error
    return name, inputs, taken, time.monotonic() - begun


_BATCH = 20_000


def campaign(inputs: int, seed: int, workers: int, say: Callable[[str], None] = lambda _: None) -> str:
    """At least so many inputs in all, over all targets; how fast, and how many were taken."""
    shares = {name: 1 / _SLOW.get(name, 1) for name in TARGETS}
    of = {name: int(inputs * share / sum(shares.values())) + 1 for name, share in shares.items()}
    jobs = [
        (name, seed + n, min(_BATCH, wanted - n * _BATCH))
        for name, wanted in of.items()
        for n in range((wanted + _BATCH - 1) // _BATCH)
    ]
    done: dict[str, list[float]] = {name: [0, 0, 0] for name in TARGETS}
    begun = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for number, result in zip(count(1), pool.map(try_some, *zip(*jobs, strict=True))):
            name, *figures = result
            done[name] = [a + b for a, b in zip(done[name], figures, strict=True)]
            say(f"{number} of {len(jobs)} batches: {name}") if number % 10 == 0 else None
    total = sum(tried for tried, _, _ in done.values())
    lines = [
        f"{total:,.0f} inputs, {total / (time.monotonic() - begun):,.0f} a second with {workers} processes"
    ]
    for name, (tried, taken, seconds) in done.items():
        lines.append(f"{name}: {tried:,.0f} tried, {taken:,.0f} taken, {tried / seconds:,.0f} a second")
    return "\n".join(lines)
