"""`crdtmail verify`: do all nodes hold the same mailboxes?  Compares clocks and digests, never messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from crdtmail.client import Client, Credentials, Refused, Unreachable


@dataclass(slots=True)
class Difference:
    """One account, or one mailbox in it, that is not the same everywhere: its digest by node."""

    account: str
    what: str
    digests: list[str | None]


@dataclass(slots=True)
class Verdict:
    """What the nodes said.  `in_step` compares clocks, `differences` digests."""

    nodes: list[dict[str, Any]]
    unreachable: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """The nodes that do not let this client in, by address, and why."""
    not_compared: list[str] = field(default_factory=list)
    """The members that were not asked, by name: the nodes above know of them."""
    accounts: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def in_step(self) -> bool:
        return all(node["clock"] == self.nodes[0]["clock"] for node in self.nodes)

    @property
    def damaged(self) -> bool:
        """Equal clocks must mean equal digests: this is no delay, a store is damaged."""
        by_clock: dict[str, set[str]] = {}
        for node in self.nodes:
            by_clock.setdefault(repr(sorted(node["clock"].items())), set()).add(node["digest"])
        return any(len(digests) > 1 for digests in by_clock.values())

    @property
    def agrees(self) -> bool:
        """All that were asked; see `not_compared` for the others."""
        return not (self.unreachable or self.refused or self.differences or self.damaged)


def verify(addresses: Sequence[str], credentials: Credentials | None = None, *, timeout_s: float) -> Verdict:
    """Ask every node, and compare account by account, mailbox by mailbox."""
    verdict = Verdict([])
    with ExitStack() as stack:
        clients = []
        for address in addresses:
            client = Client(address, credentials, timeout_s=timeout_s)
            stack.callback(client.close)
            try:
                verdict.nodes.append(client.status() | {"address": address})
                clients.append(client)
            except Unreachable as error:
                verdict.unreachable[address] = str(error)
            except Refused as error:
                if error.status not in (401, 403):
                    raise
                verdict.refused[address] = str(error)
        verdict.not_compared = _not_compared(verdict)
        by_account = [{each["account"]: each["digest"] for each in client.accounts()} for client in clients]
        for account in sorted(set().union(*by_account)):
            verdict.accounts += 1
            digests = [accounts.get(account) for accounts in by_account]
            if len(set(digests)) > 1:
                verdict.differences += _compare(clients, account)
    return verdict


def _not_compared(verdict: Verdict) -> list[str]:
    """The members of which a node that answered knows, and which were not asked."""
    asked = {node["replica"] for node in verdict.nodes}
    without_answer = verdict.unreachable.keys() | verdict.refused.keys()
    asked |= {
        peer["replica"] for n in verdict.nodes for peer in n["peers"] if peer["address"] in without_answer
    }
    members = [each for node in verdict.nodes for each in node["members"]]
    known = {each["replica"]: each["name"] for each in members if each["counts"] or each.get("isTwin")}
    return sorted({name for replica, name in known.items() if replica not in asked})


def _compare(clients: Sequence[Client], account: str) -> list[Difference]:
    """Which mailboxes of an account differ, or its directory."""
    answers = [client.digests(account) for client in clients]
    directories: list[str | None] = [answer["directory"] for answer in answers]
    found = [] if len(set(directories)) == 1 else [Difference(account, "list of mailboxes", directories)]
    by_id = [{box["id"]: box for box in answer["mailboxes"]} for answer in answers]
    names = {id: box["name"] for boxes in by_id for id, box in boxes.items()}
    shared = Counter(names.values())
    for id, name in sorted(names.items(), key=lambda pair: (pair[1], pair[0])):
        digests = [boxes[id]["digest"] if id in boxes else None for boxes in by_id]
        if len(set(digests)) > 1:
            found.append(Difference(account, name if shared[name] == 1 else f"{name} ({id})", digests))
    return found
