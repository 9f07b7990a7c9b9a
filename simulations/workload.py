"""What clients do in a run: mail comes in, sessions read, flag, move and expunge, folders come and go.

Few accounts, folders, messages and keywords, so that conflicts are the rule.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from simulations import actions
from simulations.actions import Event
from simulations.config import Config

NAMES = ("INBOX", "Work", "Archive", "Work/Done", "Work2", "Play")
KEYWORDS = ("$seen", "$draft", "$flagged", "$deleted", "todo")
SCRIPTS = ("main", "main", "holiday")
LINES = (
    "# für Grüße, 你好",
    "require 'fileinto';",
    "if true { keep; }",
    "# é",
    "stop;",
    "discard;",
    "redirect 'x@example.org';",
)


def workload(chance: random.Random, config: Config) -> Iterator[Event]:
    """`config.operations` things that clients do, at random times, and a clash of two."""
    if not config.operations:
        return
    clients = [f"c{number}" for number in range(config.clients)]
    homes = {client: chance.choice(config.nodes) for client in clients}
    accounts = {client: config.accounts[n % len(config.accounts)] for n, client in enumerate(clients)}
    for client in clients:
        yield Event(0.0, actions.Connect(client, homes[client], accounts[client]))
    mail = _Mail(chance, config)
    can_clash = len(clients) >= 2 * len(config.accounts) and len(config.nodes) > 1
    if can_clash and config.interval_s < AROUND_S:
        yield from _around_a_snapshot(chance, config, accounts)
    elif can_clash:
        at = round(chance.random() * max(0.0, config.seconds - 1.0), 4)  # in time to come to blows
        yield from _clash(chance, config, at, accounts)
    for _ in range(config.operations):
        at = round(chance.random() * config.seconds, 4)
        drawn = chance.random()
        if drawn < 0.28:
            yield from mail.arrives(at)
            continue
        client = chance.choice(clients)
        if drawn < 0.31 and can_clash:
            yield from _clash(chance, config, at, accounts)
        elif drawn < 0.34:
            yield Event(at, actions.Connect(client, chance.choice(config.nodes), accounts[client]))
            yield Event(at, actions.Look(client, _name(chance)))
        elif drawn < 0.36 and len(config.nodes) > 1:
            yield from _resurrection(chance, config, at, client, accounts[client])
        elif drawn < 0.46:
            yield from _folders(chance, at, client)
        elif drawn < 0.5:
            yield from _listing(chance, at, client)
        else:
            yield from _session(chance, at, client)


class _Mail:
    """What comes in: new messages, and now and then some that came in before, perhaps elsewhere."""

    def __init__(self, chance: random.Random, config: Config) -> None:
        self._chance = chance
        self._config = config
        self._count = 0

    def arrives(self, at: float) -> Iterator[Event]:
        chance, config = self._chance, self._config
        account, name = chance.choice(config.accounts), _name(chance)
        node = chance.choice(config.nodes)
        many = 1 if chance.random() < 0.6 else 1 + int(chance.random() * 5)
        new = []
        for _ in range(many):
            if self._count and chance.random() < 0.15:
                new.append(f"m{1 + int(chance.random() * self._count)}")
            else:
                self._count += 1
                new.append(f"m{self._count}")
        messages = tuple(dict.fromkeys(new))
        if chance.random() < 0.12:
            for importer in chance.sample(config.nodes, min(2, len(config.nodes))):
                yield Event(at, actions.Import(importer, messages, name, account))
            return
        keywords = tuple(sorted(chance.sample(KEYWORDS, int(chance.random() * 3))))
        ack = 1 + int(chance.random() * (len(config.nodes) - 1)) if chance.random() < 0.25 else 0
        wants_uids = chance.random() < 0.25
        yield Event(at, actions.Deliver(node, messages, name, keywords, account, ack, wants_uids))


def _name(chance: random.Random) -> str:
    return "INBOX" if chance.random() < 0.5 else chance.choice(NAMES)


def _part(chance: random.Random) -> tuple[float, float]:
    """Mostly one message, sometimes many, now and then all."""
    drawn = chance.random()
    if drawn < 0.15:
        return 0.0, 1.0
    first = round(chance.random(), 3)
    return (first, first) if drawn < 0.7 else (first, round(first + chance.random() * (1 - first), 3))


def _session(chance: random.Random, at: float, client: str) -> Iterator[Event]:
    """A client reads a mailbox and does something in it, perhaps a while later."""
    if chance.random() < 0.75:
        yield Event(at, actions.Look(client, _name(chance)))
    at = round(at + chance.expovariate(2.0), 4)
    part, by_uid = _part(chance), chance.random() < 0.7
    drawn = chance.random()
    if drawn < 0.45:
        some = chance.sample(KEYWORDS, 1 + int(chance.random() * 2))
        cut = int(chance.random() * (len(some) + 1))
        add, remove = tuple(sorted(some[:cut])), tuple(sorted(some[cut:]))
        yield Event(at, actions.Mark(client, add, remove, part, by_uid))
        if chance.random() < 0.2:  # a flag storm: the same again and again, back and forth
            for n in range(1, 5):
                yield Event(at + n * 0.01, actions.Mark(client, remove, add, part, by_uid))
                yield Event(at + n * 0.01 + 0.005, actions.Mark(client, add, remove, part, by_uid))
    elif drawn < 0.58:
        yield Event(at, actions.Move(client, chance.choice(NAMES), part, by_uid))
    elif drawn < 0.64:
        yield Event(at, actions.Copy(client, chance.choice(NAMES), part, by_uid))
    elif drawn < 0.74:
        yield Event(at, actions.Expunge(client, part, by_uid))
    elif drawn < 0.82:
        yield Event(at, actions.Expunge(client, None))
    else:
        yield Event(at, actions.Follow(client))


def _clash(chance: random.Random, config: Config, at: float, accounts: dict[str, str]) -> Iterator[Event]:
    """Two clients of one account read the same mail on two nodes, and do something to it at the same time."""
    account = chance.choice(config.accounts)
    here, there = chance.sample(config.nodes, 2)
    pair = chance.sample([client for client, its in accounts.items() if its == account], 2)
    homes = list(zip(pair, (here, there), strict=True))
    kind = chance.random()
    if kind < 0.09:
        yield from _clash_in_a_script(chance, at, homes, account)
        return
    if kind < 0.18:
        yield from _clash_in_the_directory(chance, at, homes, account)
        return
    if kind < 0.24:
        yield from _twins(chance, at, homes, account)
        return
    if kind < 0.3:
        yield from _family(chance, at, homes, account)
        return
    keyword, name = chance.choice(KEYWORDS), _name(chance)
    part = (0.0, 1.0) if chance.random() < 0.6 else _part(chance)
    ids = tuple(f"b{round(at * 1000)}-{n}" for n in range(1 + int(chance.random() * 2)))
    had = (keyword,) if chance.random() < 0.4 else ()
    yield Event(at, actions.Deliver(here, ids, name, had, account))
    target = chance.choice(NAMES)
    yield Event(at, actions.Deliver(here, (f"{ids[0]}-there",), target, account=account))
    for client, node in homes:
        yield Event(at, actions.Connect(client, node, account))
        yield Event(at + 0.7, actions.Look(client, name))
        for turn in range(1 + int(chance.random() * 2.5)):
            then = round(at + 0.9 + turn * 0.05 * chance.random(), 4)
            yield Event(then, _blow(chance, client, node, account, (name, target), ids, keyword, part))


def _clash_in_a_script(
    chance: random.Random, at: float, homes: list[tuple[str, str]], account: str
) -> Iterator[Event]:
    name = chance.choice(SCRIPTS)
    for client, node in homes:
        yield Event(at, actions.Connect(client, node, account))
    yield Event(at, actions.PutScript(homes[0][0], LINES[:5], name=name))
    if chance.random() < 0.5:
        other = "holiday" if name == "main" else "main"
        yield Event(at + 0.2, actions.PutScript(homes[0][0], LINES[3:6], chance.random() < 0.5, other))
    for client, _ in homes:
        lines = tuple(line for line in LINES if chance.random() < 0.7)
        yield Event(at + 0.9, actions.PutScript(client, lines, chance.random() < 0.5, name))
        if chance.random() < 0.4:
            then = round(at + 0.8 + 0.4 * chance.random(), 4)
            yield Event(then, actions.DeleteScript(client, chance.choice(SCRIPTS)))


def _clash_in_the_directory(
    chance: random.Random, at: float, homes: list[tuple[str, str]], account: str
) -> Iterator[Event]:
    """Two clients say what one mailbox is: each sets and unsets, at once and after one another."""
    name = chance.choice(NAMES[1:])
    for client, node in homes:
        yield Event(at, actions.Connect(client, node, account))
    yield Event(at, actions.CreateMailbox(homes[0][0], name, chance.choice((None, "archive"))))
    for turn in range(3):
        for client, _ in homes:
            if chance.random() < 0.7:
                then = round(at + 0.4 + 0.25 * turn + 0.02 * chance.random(), 4)
                yield Event(then, _description(chance, client, name))


def _description(chance: random.Random, client: str, name: str) -> actions.Annotate:
    value = f"note {int(chance.random() * 3)}" if chance.random() < 0.6 else ""
    role = None if name == "INBOX" else chance.choice((None, None, "", "archive", "sent"))
    return actions.Annotate(client, name, value, chance.choice((None, True, False)), role)


def _twins(chance: random.Random, at: float, homes: list[tuple[str, str]], account: str) -> Iterator[Event]:
    """Two mailboxes come to have one name, so that one shows a suffix; then they go, and the name is used."""
    name, before = chance.sample(NAMES[1:], 2)
    (one, here), (_, there) = homes
    for client, node in homes:
        yield Event(at, actions.Connect(client, node, account))
    yield Event(at, actions.CreateMailbox(one, before))
    yield Event(at + 0.4, actions.RenameMailbox(one, before, name))
    yield Event(at + 0.4, actions.Deliver(there, (f"t{round(at * 1000)}",), name, account=account))
    if chance.random() < 0.5:
        yield Event(
            at + 0.7, actions.Deliver(here, (f"t{round(at * 1000)}-2",), f"{name} (*)", account=account)
        )
    gone = [name, f"{name} (*)"]
    chance.shuffle(gone)
    for turn, each in enumerate(gone):
        then = round(at + 0.8 + turn * 0.15, 4)
        if chance.random() < 0.6:
            yield Event(then, actions.DeleteMailbox(one, each))
        else:
            yield Event(then, actions.RenameMailbox(one, each, chance.choice(NAMES[1:])))
    yield Event(at + 1.15, actions.CreateMailbox(one, name))


def _family(chance: random.Random, at: float, homes: list[tuple[str, str]], account: str) -> Iterator[Event]:
    """A mailbox, one below it and one that only begins like it are renamed and deleted on two nodes."""
    for client, node in homes:
        yield Event(at, actions.Connect(client, node, account))
    for turn, name in enumerate(("Work", "Work/Done", "Work2")):
        yield Event(at + 0.05 * turn, actions.CreateMailbox(homes[0][0], name))
    yield Event(
        at + 0.2, actions.Deliver(homes[0][1], (f"f{round(at * 1000)}",), "Work/Done", account=account)
    )
    for client, _ in homes:
        for turn in range(1 + int(chance.random() * 2)):
            then, name = round(at + 0.5 + 0.15 * turn, 4), chance.choice(("Work", "Work", "Work/Done"))
            if chance.random() < 0.7:
                to = chance.choice(("Play", "Archive", "Work2", "Archive/Work"))
                yield Event(then, actions.RenameMailbox(client, name, to))
            else:
                yield Event(then, actions.DeleteMailbox(client, name))
            yield Event(round(then + 0.1, 4), actions.List(client))


AROUND_S = 2.0
"""Intervals below this leave room for a clash around a snapshot in a short run: a log is pruned in each."""


def _around_a_snapshot(chance: random.Random, config: Config, accounts: dict[str, str]) -> Iterator[Event]:
    """Two clients come to blows while their nodes are cut apart and until their logs are cut short, and go on
    while one node takes over the other's snapshot."""
    account = chance.choice(config.accounts)
    here, there, *others = chance.sample(config.nodes, len(config.nodes))
    pair = chance.sample([client for client, its in accounts.items() if its == account], 2)
    homes = list(zip(pair, (here, there), strict=True))
    keyword, name, target = chance.choice(KEYWORDS), _name(chance), chance.choice(NAMES)
    ids = tuple(f"s{n}" for n in range(1 + int(chance.random() * 5)))
    had = (keyword,) if chance.random() < 0.5 else ()
    yield Event(0.02, actions.Deliver(here, ids, name, had, account))
    yield Event(0.04, actions.Deliver(here, ("target",), target, account=account))
    step = config.interval_s
    cut, heal = 0.6 * step, round((2.05 + 0.1 * chance.random()) * step, 4)
    for client, node in homes:
        yield Event(0.0, actions.Connect(client, node, account))
        yield Event(0.45 * step, actions.Look(client, name))
    if chance.random() < 0.3:  # what came too low for a reader there gets its UID while it is gone here
        yield Event(0.5 * step, actions.Deliver(here, ("low",), name, account=account))
        yield Event(
            0.5 * step, actions.Deliver(there, ("high", "higher"), name, account=account, wants_uids=True)
        )
        yield Event(0.57 * step, actions.Look(pair[0], name))
        yield Event(cut + 0.1, actions.Expunge(pair[0], (0.0, 1.0)))
        yield Event(round(heal + 0.02 + 0.1 * chance.random(), 4), actions.Look(pair[1], name))
    if chance.random() < 0.3:  # where it is deleted, nothing is left of one that was always empty
        yield Event(0.54 * step, actions.CreateMailbox(pair[0], "Empty"))
        yield Event(cut + 0.1, actions.DeleteMailbox(pair[1], "Empty"))
    with_there = tuple(node for node in others if chance.random() < 0.3)
    side = (here, *(node for node in others if node not in with_there))
    yield Event(cut, actions.Cut(side, (there, *with_there)))

    def blows(at: float, most: float) -> Iterator[Event]:
        for client, node in homes:
            for turn in range(int(chance.random() * most)):
                then = round(at + 0.03 * turn + 0.2 * chance.random(), 4)
                part = (0.0, 1.0) if chance.random() < 0.4 else _part(chance)
                drawn = chance.random()
                if drawn < 0.1:
                    yield Event(then, _description(chance, client, name))
                elif drawn < 0.2:
                    yield Event(then, actions.Look(client, name))
                elif drawn < 0.27:
                    twins = tuple(f"w{n}" for n in range(1 + int(chance.random() * 3)))
                    flags = (keyword,) if chance.random() < 0.5 else ()
                    yield Event(then, actions.Deliver(node, twins, name, flags, account))
                elif drawn < 0.32:
                    yield Event(then, actions.Follow(client))
                else:
                    blow = _blow(chance, client, node, account, (name, target), ids, keyword, part)
                    yield Event(then, blow)
                    if isinstance(blow, actions.Move) and chance.random() < 0.2:
                        yield Event(round(then + 0.02, 4), actions.DeleteMailbox(client, name))

    only_flags = chance.random() < 0.15  # then they go as a change to who has thrown the move away
    if only_flags:
        yield Event(cut + 0.05, actions.Move(pair[0], target, (0.0, 1.0)))
        yield Event(cut + 0.05, actions.Mark(pair[1], (keyword,), (), (0.0, 1.0)))
        if chance.random() < 0.4:
            yield Event(cut + 0.1, actions.Deliver(here, ids[:1], name, account=account))
    else:
        yield from blows(cut + 0.05, 4)
    came = {}
    for turn in range(2 + int(chance.random() * 4)):
        for node in (here, there) if chance.random() < 0.5 and not only_flags else (here,):
            mailbox = name if chance.random() < 0.3 else chance.choice(NAMES)
            came[node, mailbox] = f"x{node}{turn}"
            yield Event(
                cut + 0.3 + 0.1 * turn, actions.Deliver(node, (f"x{node}{turn}",), mailbox, account=account)
            )
    if chance.random() < 0.3:  # what comes and goes meanwhile leaves no trace but its UID
        client, node = chance.choice(homes)
        passing = chance.choice(NAMES)
        yield Event(cut + 0.2, actions.Deliver(node, ("passing",), passing, account=account))
        yield Event(cut + 0.3, actions.Look(client, passing))
        yield Event(cut + 0.4, actions.Expunge(client, (0.999, 1.0)))
    drawn = chance.random()
    if drawn < 0.75:  # what hangs in the cut is given up at once
        again = there if drawn < 0.5 else here
        yield Event(heal - 0.01, actions.Crash(again))
        yield Event(heal + 0.001, actions.Start(again))  # not before, or what it asks first hangs in the cut
    yield Event(heal, actions.Heal())
    if chance.random() < 0.2:  # reading takes long, and mail comes in meanwhile
        yield Event(heal, actions.Slow(here, 10.0))
        for turn in range(5):
            yield Event(
                heal + 0.01 + 0.006 * turn, actions.Deliver(here, (f"z{turn}",), name, account=account)
            )
        yield Event(heal + 0.3, actions.Slow(here, 1.0))
    yield from blows(heal + 0.01, 5)
    for node in others:
        for turn in range(int(chance.random() * 3)):
            then = round(heal + 0.25 * chance.random(), 4)
            yield Event(then, actions.Deliver(node, (f"y{turn}",), name, account=account))
    if chance.random() < 0.35:  # in the middle of it, so that it is resumed, with what has changed meanwhile
        then = round(heal + 0.02 + 0.25 * chance.random(), 4)
        yield Event(then, actions.Crash(there))
        for (node, mailbox), id in came.items():
            if node == here and chance.random() < 0.7:
                yield Event(then + 0.01, actions.Deliver(here, (id,), mailbox, ("$seen",), account))
        yield Event(then + 0.05, actions.Start(there))
    for client, _ in homes:
        yield Event(round(heal + 0.4 + 0.3 * chance.random(), 4), actions.Follow(client))


def _blow(
    chance: random.Random,
    client: str,
    node: str,
    account: str,
    names: tuple[str, str],
    ids: tuple[str, ...],
    keyword: str,
    part: tuple[float, float],
) -> actions.AnyAction:
    """What one of the two does: its own place in the semantics table."""
    name, target = names
    drawn = chance.random()
    if drawn < 0.25:
        return actions.Mark(client, (keyword,), (), part)
    if drawn < 0.45:
        return actions.Mark(client, (), (keyword,), part)
    if drawn < 0.62:
        return actions.Move(client, target, part)
    if drawn < 0.72:
        return actions.Expunge(client, part)
    if drawn < 0.78:
        return actions.Expunge(client, None)
    if drawn < 0.83:
        return actions.Copy(client, target, part)
    if drawn < 0.89:
        return actions.Deliver(node, ids[:1], name, account=account)
    if drawn < 0.95:
        return actions.DeleteMailbox(client, name)
    return actions.RenameMailbox(client, name, chance.choice(NAMES))


def _resurrection(
    chance: random.Random, config: Config, at: float, client: str, account: str
) -> Iterator[Event]:
    """A folder is deleted where it was read, while mail comes into it elsewhere: it comes back."""
    here, there = chance.sample(config.nodes, 2)
    name = chance.choice(NAMES[1:])
    ids = tuple(f"r{round(at * 1000)}-{n}" for n in range(4))
    yield Event(at, actions.Deliver(here, ids[:2], name, account=account))
    yield Event(at, actions.Connect(client, here, account))
    yield Event(at + 0.2, actions.Look(client, name))
    yield Event(at + 0.5, actions.DeleteMailbox(client, name))
    yield Event(at + 0.5, actions.Deliver(there, ids[2:3], name, account=account))
    yield Event(at + 1.5, actions.Deliver(here, ids[3:], name, account=account))
    yield Event(at + 1.7, actions.Look(client, name))


def _folders(chance: random.Random, at: float, client: str) -> Iterator[Event]:
    drawn, name = chance.random(), chance.choice(NAMES)
    if drawn < 0.25:
        role = chance.choice((None, None, "archive", "sent"))
        yield Event(at, actions.CreateMailbox(client, name, role))
    elif drawn < 0.5:
        parent = "Work" if chance.random() < 0.4 else name  # it may have one below it
        yield Event(at, actions.RenameMailbox(client, parent, chance.choice(NAMES)))
    elif drawn < 0.7:
        yield Event(at, actions.DeleteMailbox(client, name))
    elif drawn < 0.9:
        for turn in range(1 + int(chance.random() * 3)):
            yield Event(round(at + turn * 0.1, 4), _description(chance, client, name))
    else:
        script, lines = chance.choice(SCRIPTS), tuple(line for line in LINES if chance.random() < 0.6)
        yield Event(at, actions.PutScript(client, lines, name=script))
        if chance.random() < 0.6:
            then, again = round(at + 0.2, 4), chance.choice(SCRIPTS)
            yield Event(then, actions.PutScript(client, lines[1:], chance.random() < 0.5, again))
            yield Event(round(at + 0.3, 4), actions.DeleteScript(client, chance.choice(SCRIPTS)))


def _listing(chance: random.Random, at: float, client: str) -> Iterator[Event]:
    yield Event(at, actions.List(client))
