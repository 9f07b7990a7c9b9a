"""The command line.  Says what is wrong in one sentence, never with a traceback.

Exit codes: 0 done; 1 refused, or `verify` or `check` found something; 2 a command line or configuration that
cannot be followed, or nothing to compare; 3 a node that does not answer; 4 a store that failed; 5 a node
that does not know the token.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import crdtmail
from crdtmail import config, screen, upkeep
from crdtmail.client import Client, Credentials, NotLetIn, Unreachable
from crdtmail.commands import certs, tokens
from crdtmail.crdt.names import check_account, printable
from crdtmail.errors import ConfigError, CrdtmailError, Refusal, SourceError, StoreError, StoreFull
from crdtmail.gossip.refusals import ORDINARY
from crdtmail.limits import MAX_WAIT_S

_DEFAULT_NODE = f"http://127.0.0.1:{config.DEFAULT_PORT}"
_PROGRESS_S = 0.2
_PASSING, _PASSING_SHOWN_S = ORDINARY - {Refusal.PROTOCOL}, 60
"""What sound peers are refused, too, and what passes by itself: it is shown only while it is new."""
_NOTHING_COMPARED, _NO_ANSWER, _NOT_LET_IN = 2, 3, 5
_EXIT = {
    Unreachable: _NO_ANSWER,
    NotLetIn: _NOT_LET_IN,
    StoreError: 4,
    StoreFull: 4,
    ConfigError: 2,
    SourceError: 2,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except CrdtmailError as error:
        screen.err.print(f"crdtmail: {error}", markup=False)
        return next((code for kind, code in _EXIT.items() if isinstance(error, kind)), 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has left
        return 0


class _OneLine(logging.Formatter):
    """A message of the log is one line, whoever has a word in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


# Commands -----------------------------------------------------------------------------------------------


def _node(options: argparse.Namespace) -> int:
    from crdtmail import daemon  # a client command needs none of it, and starts faster without

    flags = {
        "name": options.name,
        "data": options.data,
        "listen": options.listen,
        "peers": options.peer,
    }
    settings = config.load(options.config, flags)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    scheme = "http" if settings.tls is None else "https"

    def ready(node: object, port: int) -> None:
        screen.out.print(
            f"crdtmail node {settings.name}: listening on {scheme}://{settings.host}:{port}, "
            f"data in {settings.data}, {len(settings.peers)} peer(s)",
            markup=False,
        )

    daemon.run(lambda: config.load(options.config, flags), ready)
    return 0


def _mailbox_list(options: argparse.Namespace) -> int:
    table = screen.table("mailbox", ">messages", ">unread", "role", "subscribed", "id")
    for box in _client(options).mailboxes(options.account):
        table.add_row(
            box["name"],
            str(box["totalEmails"]),
            str(box["unreadEmails"]),
            box["role"] or "",
            "yes" if box["isSubscribed"] else "no",
            box["id"],
        )
    screen.out.print(table)
    return 0


def _mailbox_create(options: argparse.Namespace) -> int:
    made = _client(options).create_mailbox(options.account, options.mailbox)
    screen.out.print(f"{made['name']} created (id {made['id']})", markup=False)
    return 0


def _mailbox_show(options: argparse.Namespace) -> int:
    document = _client(options).mailbox(options.account, options.mailbox)
    screen.out.print(
        f"{document['name']}: {document['totalEmails']} messages, {document['unreadEmails']} unread, "
        f"UIDVALIDITY {document['uidValidity']}, UIDNEXT {document['uidNext']}",
        markup=False,
    )
    screen.out.print(screen.messages(document))
    return 0


def _mailbox_watch(options: argparse.Namespace) -> int:
    client = _client(options)
    state = client.at(options.account, options.mailbox, "GET", query={"limit": "0"})["state"]
    screen.out.print(f"watching {options.mailbox}; Ctrl-C ends", markup=False)
    while True:
        query = {"since": state, "wait": str(MAX_WAIT_S)}
        answer = client.at(options.account, options.mailbox, "GET", "/changes", query=query)
        state = answer["state"]
        for uid in answer["vanished"]:
            screen.out.print(f"* VANISHED {uid}", markup=False)
        for message in answer["changed"]:
            shown = screen.flags(message["keywords"])
            screen.out.print(f"* UID {message['uid']} FLAGS ({shown}) {message['id']}", markup=False)


def _flag(options: argparse.Namespace) -> int:
    patch: dict[str, bool | None] = {}
    changes = options.changes[1:] if options.changes[:1] == ["--"] else options.changes
    for change in changes:
        if change.startswith("--"):
            raise ConfigError(f"{change!r}: options stand before the account")
        if len(change) < 2 or change[0] not in "+-":
            raise ConfigError(f"{change!r}: a change is + or - and a flag, like '+\\Seen' or '-Work'")
        name = screen.keyword(change[1:])
        if name in patch and patch[name] != (True if change[0] == "+" else None):
            raise ConfigError(f"{name} is both set and removed")
        patch[name] = True if change[0] == "+" else None
    if not patch:
        raise ConfigError("no change is named; a change looks like '+\\Seen' or '-Work'")
    body = {**_selection(options), "patch": {f"keywords/{_pointer(k)}": to for k, to in patch.items()}}
    answer = _client(options).at(options.account, options.mailbox, "PATCH", "/messages", body)
    screen.out.print(f"{len(answer['updated'])} message(s) changed")
    return 0


def _expunge(options: argparse.Namespace) -> int:
    body = {"deleted": True} if options.messages is None else _selection(options)
    answer = _client(options).at(options.account, options.mailbox, "POST", "/expunge", body)
    screen.out.print(f"{len(answer['expunged'])} message(s) expunged")
    return 0


def _import(options: argparse.Namespace) -> int:
    from crdtmail.importing import import_mail

    table = screen.table("mailbox", ">added", ">already there")
    for folder in import_mail(_client(options), options.account, options.path, into=options.into):
        table.add_row(folder.folder, str(folder.added), str(folder.present))
    screen.out.print(table)
    return 0


def _retire(options: argparse.Namespace) -> int:
    path = f"/v1/members/{quote(options.member, safe='')}/retire"
    answer = _client(options).request("POST", path, {"force": options.force})
    members = ", ".join(f"{each['name']} ({each['replica']})" for each in answer["retired"])
    said = (
        f"retired already: {members}"
        if answer["wasAlready"]
        else f"retired {members}; every node that knew it hears of it"
    )
    screen.out.print(said, markup=False)
    return 0


def _show_progress(client: Client) -> None:
    """A bar while the node takes over another one's snapshot."""
    with screen.progress() as bar:
        task = None
        while (filling := client.status()["filling"]) is not None:
            if task is None:
                task = bar.add_task(f"messages of {filling['from']}", total=filling["messagesThere"])
            bar.update(task, completed=filling["messagesStaged"], total=filling["messagesThere"])
            time.sleep(_PROGRESS_S)


def _status(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.progress:
        _show_progress(client)
    status = client.status()
    deltas = screen.counted(status["log"]["deltas"], "delta")
    screen.out.print(
        f"{status['name']} (replica {status['replica']}), crdtmail {status['version']}\n"
        f"digest {status['digest']}, log {deltas}, {status['log']['bytes']:,} bytes\n"
        "clock  " + ", ".join(f"{replica}: {seq}" for replica, seq in status["clock"].items()),
        markup=False,
    )
    if (disk := status["disk"]) is not None:
        screen.out.print(
            f"store {disk['storeBytes']:,} bytes, {disk['freeBytes']:,} bytes are free on its disk"
        )
    for alarm in status["alarms"]:
        screen.out.print(f"ALARM: {alarm['text']}", markup=False, style="bold red")
    if (filling := status["filling"]) is not None:
        screen.out.print(
            f"taking over a snapshot of {filling['from']} for {filling['seconds']:.0f} s: "
            f"{filling['messagesStaged']:,} of at most {filling['messagesThere']:,} messages",
            markup=False,
        )
    lagging = [] if options.max_lag is None else list(_lagging(status, options.max_lag))
    for late in lagging:
        screen.out.print(f"LATE: {late}", markup=False, style="bold red")
    table = screen.table("peer", "name", "state", ">it lacks", ">oldest waits", ">last heard")
    for peer in status["peers"]:
        lag = peer["lag"]
        table.add_row(
            peer["address"],
            peer["name"] or "?",
            _peer_state(peer),
            "?" if lag is None else screen.counted(lag["deltas"], "delta"),
            "?" if lag is None or lag["seconds"] is None else f"{lag['seconds']:.1f} s",
            "never" if peer["lastHeardSeconds"] is None else f"{peer['lastHeardSeconds']:.1f} s ago",
        )
    screen.out.print(table if status["peers"] else "no peers are configured")
    for member in _members_without_peer(status):
        screen.out.print(member, markup=False)
    for peer in status["peers"]:
        if peer["error"]:
            screen.out.print(f"{peer['address']}: {peer['error']}", markup=False)
    for refusal in _refusals(status):
        screen.out.print(refusal, markup=False)
    return 1 if status["alarms"] or lagging else 0


def _members_without_peer(status: dict[str, Any]) -> Iterator[str]:
    """The members that answer at no peer's address, and those that are gone for good."""
    addressed = {peer["replica"] for peer in status["peers"]}
    is_sure = "or has not answered yet" if None in addressed else "and learns of changes when it calls"
    for member in status["members"]:
        who = f"{member['name']} ({member['replica']})"
        heard = f"last heard {member['lastHeardSeconds']:.0f} s ago"
        if member["isRetired"]:
            yield f"{who} is retired; {heard}"
        elif member["counts"] and member["replica"] not in addressed:
            held = member["heldBack"]
            kept = f"{screen.counted(held, 'change')} {'is' if held == 1 else 'are'} kept in the log for it"
            yield f"member {who} is no peer of this node, {is_sure}; {heard}, {kept}"


def _refusals(status: dict[str, Any]) -> Iterator[str]:
    """What was refused of whom."""
    for refusal in status["refusals"]:
        if refusal["reason"] in _PASSING and refusal["lastSeconds"] > _PASSING_SHOWN_S:
            continue
        who = "who did not show who they are" if refusal["peer"] is None else refusal["peer"]
        name = f" ({refusal['name']})" if refusal["name"] else ""
        times = screen.counted(refusal["count"], "time")
        yield (
            f"refused {times} ({refusal['reason']}) of {who}{name}, the last "
            f"{refusal['lastSeconds']:.0f} s ago: {refusal['last']}"
        )


def _lagging(status: dict[str, Any], most_s: float) -> Iterator[str]:
    """The peers that lack something for longer than so many seconds, or of which it is not known."""
    for peer in status["peers"]:
        lag, who = peer["lag"], peer["name"] or peer["address"]
        if lag is None:
            yield f"what {who} lacks is not known: it was never reached"
            continue
        lacks = f"{who} lacks {screen.counted(lag['deltas'], 'delta')}"
        if lag["seconds"] is None:
            yield f"{lacks}, and for longer than the log reaches back"
        elif lag["seconds"] > most_s:
            yield f"{lacks} for {lag['seconds']:.0f} s"


def _verify(options: argparse.Namespace) -> int:
    from crdtmail.verify import verify

    addresses = list(dict.fromkeys(config.split_address(address) for address in options.address))
    are_all = not addresses
    if are_all:
        status = _client(options).status()
        addresses = [_address(options), *(peer["address"] for peer in status["peers"])]
    verdict = verify(addresses, _credentials(options), timeout_s=options.timeout)
    table = screen.table("node", "name", "digest", ">deltas applied")
    for node in verdict.nodes:
        table.add_row(node["address"], node["name"], node["digest"], str(sum(node["clock"].values())))
    screen.out.print(table)
    for reason in verdict.unreachable.values():
        screen.out.print(f"UNREACHABLE: {reason}", markup=False)
    for reason in verdict.refused.values():
        screen.out.print(f"NOT LET IN: {reason}", markup=False)
    if verdict.not_compared:
        why = f"no peer of {verdict.nodes[0]['name']}" if are_all else "not named"
        screen.out.print(f"not compared: {', '.join(verdict.not_compared)} ({why})", markup=False)
    times = Counter(node["name"] for node in verdict.nodes)
    names = [
        node["name"] if times[node["name"]] == 1 else f"{node['name']} ({node['address']})"
        for node in verdict.nodes
    ]
    for difference in verdict.differences:
        values = ", ".join(
            f"{name} {digest or 'does not have it'}"
            for name, digest in zip(names, difference.digests, strict=True)
        )
        screen.out.print(f"DIFFERS: {difference.account} / {difference.what}: {values}", markup=False)
    if verdict.damaged:
        screen.out.print("DAMAGED: nodes with equal clocks have different digests", style="bold red")
    elif verdict.differences and not verdict.in_step:
        screen.out.print(
            "The nodes have not applied the same changes yet; if they can reach one another, ask again."
        )
    if verdict.agrees:
        if len(verdict.nodes) == 1:
            screen.out.print("There is one node alone: nothing to compare")
            return _NOTHING_COMPARED
        screen.out.print(f"{len(verdict.nodes)} nodes agree on {verdict.accounts} account(s)")
        return _NO_ANSWER if are_all and verdict.not_compared else 0
    if verdict.refused:
        return _NOT_LET_IN
    return 1 if verdict.nodes and not verdict.unreachable else _NO_ANSWER


def _demo(options: argparse.Namespace) -> int:
    from crdtmail.demo import demo

    return demo(chain=options.chain, keep=options.keep)


# ---------------------------------------------------------------------------------------------------------


def _client(options: argparse.Namespace) -> Client:
    return Client(_address(options), _credentials(options))


def _credentials(options: argparse.Namespace) -> Credentials:
    token_file, ca = getattr(options, "token_file", None), getattr(options, "ca", None)
    return Credentials.find(os.environ, token_file=token_file, ca=ca)


def _address(options: argparse.Namespace) -> str:
    """Where the node is, whether that stands before the command or behind it."""
    given = getattr(options, "node", None) or os.environ.get("CRDTMAIL_NODE")
    return config.split_address(given or _DEFAULT_NODE)


def _selection(options: argparse.Namespace) -> dict[str, object]:
    """Messages as an operator names them: UIDs, or with --ids message ids."""
    if options.ids:
        return {"ids": options.messages.split(",")}
    return {"uids": options.messages}


def _account(given: str) -> str:
    try:
        return check_account(given)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise ConfigError(f"{given!r}: a number of seconds above 0, at most 3600, was expected")
    return seconds


def _pointer(keyword: str) -> str:
    return keyword.replace("~", "~0").replace("/", "~1")


def _peer_state(peer: dict[str, Any]) -> str:
    if peer["diverged"]:
        return "DIVERGED"
    if peer["waits"]:
        return f"waits ({peer['waits']})"
    if peer["reachable"]:
        return "ok"
    if peer["failingSeconds"] is None:
        return "not reached yet"
    return f"{'failing' if peer['name'] else 'never reached'} for {peer['failingSeconds']:.0f} s"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crdtmail",
        description="Keeps mailboxes identical on several mail servers that all accept changes, "
        "also while they are cut off from each other.",
    )
    parser.add_argument("--version", action="version", version=f"crdtmail {crdtmail.__version__}")
    _add_node_to_ask(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    node = commands.add_parser(
        "node",
        help="run this server's node",
        description=(
            "Run this server's node until it is stopped.  A single node needs no configuration: it listens "
            f"on 127.0.0.1:{config.DEFAULT_PORT} and keeps its data in {config.default_data()}."
        ),
    )
    node.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; flags override them")
    node.add_argument("--name", help="what other nodes and people call this node (the host's name)")
    node.add_argument("--data", metavar="FOLDER", help="where its state is kept; one node a folder")
    node.add_argument(
        "--listen", metavar="HOST:PORT", help="for clients and other nodes; port 0 is a free one"
    )
    node.add_argument("--peer", action="append", metavar="URL", help="another node; may be given often")
    node.set_defaults(command=_node)

    mailbox = commands.add_parser("mailbox", help="look at mailboxes").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    listing = _client_parser(mailbox, "list", "list an account's mailboxes", _mailbox_list)
    listing.add_argument("account", type=_account)
    for name, text, command in (
        ("create", "make a mailbox", _mailbox_create),
        ("show", "show a mailbox's messages", _mailbox_show),
        ("watch", "print changes of a mailbox as they come", _mailbox_watch),
    ):
        one = _client_parser(mailbox, name, text, command)
        one.add_argument("account", type=_account)
        one.add_argument("mailbox", help="its name, like INBOX or Archive/2026")

    flag = _client_parser(commands, "flag", "add and remove flags", _flag)
    flag.usage = "crdtmail flag [OPTIONS] ACCOUNT MAILBOX MESSAGES CHANGE ...    (in this order)"
    flag.add_argument("--ids", action="store_true", help="MESSAGES are message ids, with commas between")
    flag.add_argument("account", type=_account)
    flag.add_argument("mailbox")
    flag.add_argument("messages", help="UIDs like 1:5,9,20:*")
    flag.add_argument(
        "changes", nargs=argparse.REMAINDER, metavar="CHANGE", help="like '+\\Seen' '-\\Flagged' +Work"
    )

    expunge = _client_parser(
        commands,
        "expunge",
        "take messages out of a mailbox: those named, or all that are \\Deleted",
        _expunge,
    )
    expunge.add_argument("--ids", action="store_true", help="MESSAGES are message ids, with commas between")
    expunge.add_argument("account", type=_account)
    expunge.add_argument("mailbox")
    expunge.add_argument("messages", nargs="?", help="UIDs like 1:5,9,20:*; without: all that are \\Deleted")

    importing = _client_parser(commands, "import", "import a Maildir tree or an mbox file", _import)
    importing.add_argument(
        "--into",
        metavar="MAILBOX",
        help="where the mail of an mbox file goes; without: what the file is called like, or the INBOX for "
        "one in /var/mail",
    )
    importing.add_argument("account", type=_account)
    importing.add_argument("path", type=Path, help="a Maildir (with its subfolders) or an mbox file")

    status = _client_parser(
        commands, "status", "say how a node and its peers are; exit code 1 on an alarm", _status
    )
    status.add_argument(
        "--max-lag",
        type=_seconds,
        metavar="SECONDS",
        help="exit code 1 also if a peer lacks something for longer than this",
    )
    status.add_argument(
        "--progress", action="store_true", help="first show a bar while the node takes over a snapshot"
    )

    retire = _client_parser(
        commands, "retire", "say that a member is gone for good: nothing is kept for it any more", _retire
    )
    retire.add_argument("--force", action="store_true", help="also if it was heard of a moment ago")
    retire.add_argument("member", help="its name, or its replica as `status` shows it")

    verify = _client_parser(
        commands, "verify", "compare the nodes' mailboxes; exit code 0 only if all agree", _verify
    )
    verify.add_argument("address", nargs="*", help="nodes; without: the --node and its peers")
    verify.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="for each node (10)"
    )

    tokens.add(commands)
    certs.add(commands)
    upkeep.register(commands)

    demo = commands.add_parser(
        "demo",
        help="see three nodes cut apart and healed, on this machine",
        description=(
            "Start three nodes on loopback, cut one off, change the same mailbox on both sides, heal it, "
            "show what every node holds.  Leaves nothing behind."
        ),
    )
    demo.add_argument(
        "--chain", action="store_true", help="A-B-C, where A and C never meet, not all with all"
    )
    demo.add_argument("--keep", action="store_true", help="leave the nodes running until Ctrl-C")
    demo.set_defaults(command=_demo)
    return parser


def _client_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    command: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    _add_node_to_ask(parser)
    parser.set_defaults(command=command)
    return parser


def _add_node_to_ask(parser: argparse.ArgumentParser) -> None:
    """These may stand before the command or behind it, so neither place has a default of its own."""
    parser.add_argument(
        "--node",
        default=argparse.SUPPRESS,
        metavar="URL",
        help=f"the node to ask ($CRDTMAIL_NODE, else {_DEFAULT_NODE})",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="holds the token to show ($CRDTMAIL_TOKEN_FILE; $CRDTMAIL_TOKEN is the token itself)",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="whose certificates to believe with https ($CRDTMAIL_CA)",
    )
