"""The bytes of deltas: one encoding each, checked both ways, and nothing but PeerError for all others."""

from __future__ import annotations

import time
import zlib
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta, encode_delta, with_checksum
from crdtmail.crdt.delta import Add, Create, Delta, Keywords, MailboxId
from crdtmail.crdt.directory import Directory
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.uid import Uid
from crdtmail.errors import PeerError
from crdtmail.gossip.codec import (
    decode_answer,
    decode_clock,
    decode_position,
    decode_push,
    encode_answer,
    encode_clock,
    encode_position,
    encode_push,
)
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.limits import MAX_DELTA, MAX_VALUES
from tests.strategies import CLOCKS, DELTAS, REPLICAS

BOX = MailboxId(b"0123456789abcdef")
SIMPLE = Delta(Dot(ReplicaId(7), 1), "alice", (Create(BOX),))
CHANGE = Delta(
    Dot(ReplicaId(7), 2),
    "alice",
    (Keywords(BOX, (MessageId("m"),), ("$seen",), (), Clock({ReplicaId(7): 1})),),
)


def sealed(fields: list[Any], **options: Any) -> bytes:
    """A delta of any content, with the right checksum."""
    payload = b"\x86" + cbor2.dumps(fields, **options)[1:]
    return payload + b"\x44" + zlib.crc32(payload).to_bytes(4, "big")


@given(DELTAS)
def test_a_delta_reads_as_it_was_written(delta: Delta) -> None:
    assert decode_delta(encode_delta(delta)) == delta


@given(DELTAS, st.data())
def test_a_flipped_bit_is_noticed(delta: Delta, data: st.DataObject) -> None:
    encoded = bytearray(encode_delta(delta))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerError):
        decode_delta(bytes(encoded))


@given(DELTAS, st.data())
def test_a_cut_off_delta_is_noticed(delta: Delta, data: st.DataObject) -> None:
    encoded = encode_delta(delta)
    with pytest.raises(PeerError):
        decode_delta(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


CBOR = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 9), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(CBOR, min_size=5, max_size=5))
def test_well_sealed_nonsense_is_refused_or_reads_as_it_is_written(fields: list[Any]) -> None:
    data = sealed(fields)
    with suppress(PeerError):
        assert encode_delta(decode_delta(data)) == data


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_or_read_as_they_are_written(data: bytes) -> None:
    with suppress(PeerError):
        assert encode_delta(decode_delta(data)) == data


@pytest.mark.parametrize(
    "fields",
    [
        [1, 7, 1, "alice", [[0, BOX]]],
        [2, -1, 1, "alice", [[0, BOX]]],
        [2, 2**64, 1, "alice", [[0, BOX]]],
        [2, 7, 0, "alice", [[0, BOX]]],
        [2, 7, True, "alice", [[0, BOX]]],
        [2, 7, 1, "", [[0, BOX]]],
        [2, 7, 1, "a\0b", [[0, BOX]]],
        [2, 7, 1, "x" * 256, [[0, BOX]]],
        [2, 7, 1, "alice", []],
        [2, 7, 1, "alice", [[0, BOX]] * 65],
        [2, 7, 1, "alice", [[8, BOX]]],
        [2, 7, 1, "alice", [[0, BOX, 1]]],
        [2, 7, 1, "alice", [[0, BOX[:15]]]],
        [2, 7, 1, "alice", [[1, BOX, [], {}]]],
        [2, 7, 1, "alice", [[1, BOX, [["m", 0, 1, 1, []]], {}]]],
        [2, 7, 1, "alice", [[1, BOX, [["m", 1, 1, 1, ["$Seen"]]], {}]]],
        [2, 7, 1, "alice", [[1, BOX, [["m", 1, 1, 1, ["b", "a"]]], {}]]],
        [2, 7, 1, "alice", [[1, BOX, [["m", 1, 1, 1, []]] * 2, {}]]],
        [2, 7, 1, "alice", [[2, BOX, BOX, [["m", 1, 1, 1, []]], {}]]],
        [2, 7, 1, "alice", [[3, BOX, ["m"], [], [], {}]]],
        [2, 7, 1, "alice", [[3, BOX, ["m"], ["a"], ["a"], {}]]],
        [2, 7, 1, "alice", [[3, BOX, ["m"], ["(undeleted)"], [], {}]]],
        [2, 7, 1, "alice", [[3, BOX, ["m"], ["a"], [], {7: 0}]]],
        [2, 7, 1, "alice", [[3, BOX, ["m"], ["a"], [], dict.fromkeys(range(1001), 1)]]],
        [2, 7, 1, "alice", [[4, BOX, ["m", "m"], {}]]],
        [2, 7, 1, "alice", [[5, BOX, [["m", 2**32]], {}]]],
    ],
    ids=lambda fields: str(fields)[:70],
)
def test_what_no_replica_would_write_is_refused(fields: list[Any]) -> None:
    with pytest.raises(PeerError):
        decode_delta(sealed(fields))


def test_there_is_one_encoding_of_a_delta() -> None:
    plain = [2, 7, 2, "alice", [[3, BOX, ["m"], ["$seen"], [], {7: 1, 300: 2}]]]
    decode_delta(sealed(plain, canonical=True))
    backwards = [*plain[:4], [[3, BOX, ["m"], ["$seen"], [], {300: 2, 7: 1}]]]
    with pytest.raises(PeerError):
        decode_delta(sealed(backwards))
    with pytest.raises(PeerError):
        decode_delta(encode_delta(SIMPLE) + b"\0")
    payload = encode_delta(SIMPLE)[:-5].replace(b"\x86\x02\x07", b"\x86\x02\x18\x07", 1)  # 7 in two bytes
    with pytest.raises(PeerError):
        decode_delta(payload + b"\x44" + zlib.crc32(payload).to_bytes(4, "big"))


def test_shared_references_and_depth_are_refused() -> None:
    shared: list[Any] = []
    shared.append(shared)
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    for fields in ([1, 7, 1, "alice", shared], [1, 7, 1, "alice", deep]):
        with pytest.raises(PeerError):
            decode_delta(sealed(fields, value_sharing=True))


def test_a_delta_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(PeerError, match="over the limit"):
        decode_delta(b"\0" * (MAX_DELTA + 1))


NAMES = st.text(max_size=20).filter(str.isprintable)
POSITIONS = st.builds(Position, REPLICAS, NAMES, CLOCKS, st.integers(0, 2**64 - 1))


@given(POSITIONS, st.lists(st.binary(max_size=9), max_size=3))
def test_gossip_reads_as_it_was_written(position: Position, deltas: list[bytes]) -> None:
    answer = ExchangeAnswer(position, tuple(deltas))
    assert decode_position(encode_position(position)) == position
    assert decode_answer(encode_answer(answer)) == answer
    assert decode_push(encode_push(deltas)) == tuple(deltas)
    assert decode_clock(encode_clock(position.clock)) == position.clock


@given(CBOR.map(cbor2.dumps) | st.binary(max_size=60))
def test_any_gossip_is_read_or_refused(data: bytes) -> None:
    for decode in (decode_position, decode_answer, decode_push, decode_clock):
        with suppress(PeerError):
            decode(data)


@given(st.binary(max_size=60))
def test_any_directory_update_is_merged_or_refused(data: bytes) -> None:
    directory = Directory(b"", ReplicaId(1))
    update = directory.create(BOX, "Work")
    for broken in (data, update[: len(data) % len(update)] + data):
        with suppress(PeerError):
            Directory(update, ReplicaId(2)).merge(broken)


def colliding_keys(data: bytes) -> bytes:
    """`data` behind a map of far more keys than a clock has, in a list of two."""
    return b"\x82" + b"\xb9\x07\xd0" + b"".join(bytes([0x19, n >> 8, n & 255, 1]) for n in range(2000)) + data


NOT_CLOCKS = {
    "more entries than a clock may have": colliding_keys(b"\0"),
    "lists as keys": b"\xa2" + b"\x81\0\0" * 2 + b"\x59\x20\0" + bytes(8192),
    "a list as a value": b"\xa1\0\x81\0" + b"\x59\x20\0" + bytes(8192),
    "a list of open length": b"\x9f\xff" + b"\x59\x20\0" + bytes(8192),
}


@pytest.mark.parametrize("what", NOT_CLOCKS)
def test_a_large_map_that_is_no_clock_is_refused_before_anything_is_made_of_it(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a map of some megabytes would take minutes to decode."""
    monkeypatch.setattr(cbor2, "loads", lambda *_, **__: pytest.fail("it is decoded"))
    with pytest.raises(PeerError, match=r"clock|length"):
        decode_push(NOT_CLOCKS[what])


def test_a_large_clock_in_a_large_delta_is_read() -> None:
    clock = Clock({ReplicaId(2**64 - 1 - n): 2**40 for n in range(1000)})
    ids = tuple(MessageId(f"{n:0250}") for n in range(300))
    delta = Delta(Dot(ReplicaId(7), 2), "alice", (Keywords(BOX, ids, ("$seen",), (), clock),) * 2)
    assert decode_delta(encode_delta(delta)) == delta


@pytest.mark.parametrize("value", [b"\x80", b"\x00", b"\x40"], ids=["lists", "numbers", "strings"])
def test_more_values_than_anybody_has_to_say_are_refused_before_anything_is_made_of_them(
    value: bytes,
) -> None:
    count = MAX_VALUES + 1
    body = b"\x9a" + count.to_bytes(4, "big") + value * count
    began = time.process_time()
    for decode, data in ((decode_push, body), (decode_position, with_checksum(body))):
        with pytest.raises(PeerError, match="more than 2000000 values"):
            decode(data)
    assert time.process_time() - began < 5


def test_a_delta_of_more_values_than_a_replica_reads_is_not_written() -> None:
    """As many keywords as a message may have, on as many messages as a few bytes each allow."""
    keywords = tuple(sorted(f"k{n}" for n in range(128)))
    count = MAX_VALUES // 128
    messages = tuple(NewMessage(MessageId(f"{n}"), Uid(n + 1), 1, 0, keywords) for n in range(count))
    add = Add(MailboxId(bytes(16)), messages, Clock())
    with pytest.raises(ValueError, match="more than 2000000 values"):
        encode_delta(Delta(Dot(ReplicaId(1), 1), "alice", (add,)))
    fewer = Add(MailboxId(bytes(16)), messages[: count * 9 // 10], Clock())
    delta = Delta(Dot(ReplicaId(1), 1), "alice", (fewer,))
    assert decode_delta(encode_delta(delta)) == delta
