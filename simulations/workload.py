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
LINES = ("require 'fileinto';", "if true { keep; }", "stop;", "discard;", "redirect 'x@example.org';")


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
    if can_clash:
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
    if chance.random() < 0.08:
        yield from _clash_in_a_script(chance, at, homes, account)
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
    for client, node in homes:
        yield Event(at, actions.Connect(client, node, account))
    yield Event(at, actions.PutScript(homes[0][0], LINES[:4]))
    for client, _ in homes:
        lines = tuple(line for line in LINES if chance.random() < 0.7)
        yield Event(at + 0.9, actions.PutScript(client, lines))


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
    elif drawn < 0.92:
        for turn in range(1 + int(chance.random() * 3)):
            subscribed = None if chance.random() < 0.3 else chance.random() < 0.5
            value = f"note {int(chance.random() * 9)}" if chance.random() < 0.7 else ""
            yield Event(round(at + turn * 0.1, 4), actions.Annotate(client, name, value, subscribed))
    else:
        lines = tuple(line for line in LINES if chance.random() < 0.6)
        yield Event(at, actions.PutScript(client, lines))
        if chance.random() < 0.5:
            yield Event(round(at + 0.2, 4), actions.PutScript(client, lines[1:], chance.random() < 0.5))


def _listing(chance: random.Random, at: float, client: str) -> Iterator[Event]:
    yield Event(at, actions.List(client))
