"""Power loss: every file that the disk may hold after a cut, made from what a node really wrote and synced.

A library that is preloaded into the node (`recorder.c`) logs each write to `data.mdb` and each sync; clients
append a mark to the same log before they ask for something and after they are answered.  So all stands in
one order.  A cut is a place in that log.  What was synced before it is in the image; of what was not, each
write is there, missing, or torn between sectors of 512 bytes, by chance (a disk writes a sector whole or not
at all: LMDB relies on it for its meta pages).

Why so: it needs no root, no device mapper and no kernel module, so it runs in CI; it sees exactly the system
calls that reach the file; and one run gives as many cuts as wanted.  What it cannot see is the file system's
own part (directory entries, the order of metadata), which a device under it would show.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from crdtmail import LmdbStore, Tables, living_mailboxes, messages
from crdtmail.checking import check as sound
from crdtmail.client import Client
from crdtmail.crdt.clock import Clock
from crdtmail.errors import StoreError
from crdtmail.verify import verify
from crdtmail.views import deltas_after
from simulations.recount import recount
from tests import endings
from tests.nodes import PATIENCE_S, node_process, write_timing

ACCOUNT = "alice"
SECTOR = 512
_HEAD = struct.Struct("=QQQQ")
_ASKED, _ANSWERED = ord("a"), ord("A")
_REJOINS = 250
"""One in so many images is gone on with, and the last one."""


class Record(NamedTuple):
    kind: str
    id: int
    offset: int
    data: bytes


def build(folder: Path) -> Path:
    """The recorder, compiled."""
    library = folder / "recorder.so"
    source = Path(__file__).parent / "recorder.c"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def record(folder: Path, writes: int, program: Sequence[str] = ("-m", "crdtmail")) -> list[Record]:
    """What a node with some clients writes, syncs and answers."""
    log = folder / "power.log"
    log.touch()
    env = {"LD_PRELOAD": str(build(folder)), "POWER_LOG": str(log)}
    marks = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        with node_process(folder / "recorded", program=program, env=env) as node:
            node.client().create_mailbox(ACCOUNT, "INBOX")
            _mark(marks, _ANSWERED, "mailbox INBOX")
            threads = [
                threading.Thread(target=_write, args=(node.client(), marks, writer, writes // 3))
                for writer in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        os.close(marks)
    return list(_read(log.read_bytes()))


def _write(client: Client, marks: int, writer: int, writes: int) -> None:
    for number in range(writes):
        ids = [f"{writer}-{number}-{each}" for each in range(1 + 60 * (number % 10 == 9))]
        _mark(marks, _ASKED, *ids)
        new = {"messages": [{"id": id, "size": 1} for id in ids], "wantUids": number % 4 == 0}
        client.at(ACCOUNT, "INBOX", "POST", "/messages", new)
        _mark(marks, _ANSWERED, *ids)


def _mark(log: int, kind: int, *texts: str) -> None:
    data = json.dumps(texts).encode()
    assert os.write(log, _HEAD.pack(kind, 0, 0, len(data)) + data) == _HEAD.size + len(data)


def _read(log: bytes) -> Iterator[Record]:
    at = 0
    while at < len(log):
        kind, id, offset, length = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        yield Record(chr(kind), id, offset, log[at : at + length])
        at += length


@dataclass
class Disk:
    """What the log says up to a place: what is durable, what may be, and what was asked for and answered."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[Record, bool]] = field(default_factory=list)
    """Writes in order, each with whether it is durable by itself."""
    syncing: dict[int, int] = field(default_factory=dict)
    names: tuple[str, ...] = ("data.new",)
    """The names that the file may have."""
    folders: list[str] = field(default_factory=list)
    """Those that were synced."""
    asked: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    def take(self, record: Record) -> None:
        match record.kind:
            case "W" | "T":
                self.pending.append((record, False))
            case "D":
                self.pending = [(each, sure or each.id == record.id) for each, sure in self.pending]
            case "B":
                self.syncing[record.id] = len(self.pending)
            case "S":
                covered = self.syncing.pop(record.id)
                for each, _ in self.pending[:covered]:
                    _apply(self.synced, each, each.data)
                self.pending = self.pending[covered:]
                self.syncing = {id: max(0, at - covered) for id, at in self.syncing.items()}
            case "R":
                self.names = ("data.new", "data.mdb")
            case "F":
                self.names = self.names[-1:]
                self.folders.append(record.data.decode())
            case "a":
                self.asked.update(json.loads(record.data))
            case "A":
                self.answered.update(json.loads(record.data))

    def image(self, chance: random.Random) -> bytes:
        """The file as it may be after the power has gone now."""
        file = bytearray(self.synced)
        kept, torn = chance.random(), chance.random()
        for each, sure in self.pending:
            if sure or chance.random() < kept:
                _apply(file, each, each.data, None if sure or chance.random() > torn else chance)
        return bytes(file)


def _apply(file: bytearray, record: Record, data: bytes, chance: random.Random | None = None) -> None:
    """Write to the file; with `chance`, only some sectors of it."""
    if record.kind == "T":
        del file[record.offset :]
        file.extend(bytes(record.offset - len(file)))
        return
    end = record.offset + len(data)
    file.extend(bytes(max(0, end - len(file))))
    at = record.offset
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        if chance is None or chance.random() < 0.5:
            file[at:stop] = data[at - record.offset : stop - record.offset]
        at = stop


def check(folder: Path, name: str, image: bytes, disk: Disk) -> None:
    """The image opens, holds all that was answered, and nothing but whole deltas that somebody asked for."""
    folder.mkdir()
    (folder / name).write_bytes(image)
    try:
        store = LmdbStore(folder)
    except StoreError as error:
        raise AssertionError(f"the image does not open: {error}") from error
    try:
        with store.snapshot() as snapshot:
            tables = Tables(snapshot)
            recount(tables)
            wrong = [finding.text for finding in sound(snapshot)]
            assert not wrong, f"crdtmail check: {wrong[:5]}"
            head = tables.head()
            logged = deltas_after(tables, Clock(), max_bytes=1 << 40)
            missing = sum(head.clock.values()) - sum(head.floor.values()) - len(logged)
            assert missing == 0, "the log holds what the clock covers"
            shown = {"mailbox " + each.name for each in living_mailboxes(tables, ACCOUNT).values()}
            for living in living_mailboxes(tables, ACCOUNT).values():
                shown |= {message.id for message in messages(tables, living.record, limit=1 << 30)}
    finally:
        store.close()
    lost = disk.answered - shown
    assert not lost, f"what was answered is lost: {sorted(lost)[:5]}"
    strange = shown - disk.asked - {"mailbox INBOX"}
    assert not strange, f"nobody asked for {sorted(strange)[:5]}"


def cut(
    folder: Path, records: Sequence[Record], cuts: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> int:
    """So many cuts, one in four while the store is made, the others anywhere; in how many of them something
    was written that was not synced."""
    chance = random.Random(seed)
    first = next(n for n, record in enumerate(records) if record.kind == "A")
    ends = [first if number % 4 == 0 else len(records) for number in range(cuts)]
    places = sorted(chance.randint(0, end) for end in ends)
    disk, done, incomplete = Disk(), 0, 0
    for number, place in enumerate(places):
        for record in records[done:place]:
            disk.take(record)
        done = place
        image = disk.image(chance)
        incomplete += bool(disk.pending)
        wrong = _in_a_child(partial(check, folder / f"cut-{number}", chance.choice(disk.names), image, disk))
        assert not wrong, f"cut {number} of seed {seed}, before record {place}: {wrong}"
        _remove(folder / f"cut-{number}")
        if number % _REJOINS == _REJOINS - 1 or number == cuts - 1:
            rejoin(folder / f"rejoin-{number}", disk.names[-1], image)
        if (number + 1) % 100 == 0:
            say(f"{number + 1} cuts")
    return incomplete


def rejoin(folder: Path, name: str, image: bytes) -> None:
    """A node goes on with the image, and one that is new takes over all that it has."""
    folders = [folder / "cut", folder / "new"]
    folders[0].mkdir(parents=True)
    (folders[0] / name).write_bytes(image)
    timing = write_timing(folder)
    with ExitStack() as stack:
        one = stack.enter_context(node_process(folders[0], "--config", str(timing), "--name", "mx1"))
        peers = ["--peer", one.address]
        two = stack.enter_context(node_process(folders[1], "--config", str(timing), "--name", "mx2", *peers))
        with endings.asking(one.address) as client:
            client.create_mailbox("bob", "INBOX")
        endings.end_well(
            lambda: verify([one.address, two.address], timeout_s=PATIENCE_S), stack.close, folders
        )


def _in_a_child(work: Callable[[], None]) -> str:
    """What is wrong, if anything is.  LMDB maps its file: one that is cut off can end the process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            work()
        except BaseException as error:
            said = (str(error) or repr(error)).encode()
        os.write(write, said[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said.decode() if status == 0 else f"the image does not open: it ends the process ({status})"


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
