"""`crdtmail demo`: three real nodes on loopback, a cut, the same mailbox changed on both sides, a heal.

The story is the one with which the problem was stated in 2008: a flagged message gets \\Answered on one
server, \\Seen and not \\Flagged on another.  Each node is a process with a data folder of its own; the
links between them run through relays of ours, which is where they are cut.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from crdtmail.client import Client
from crdtmail.errors import CrdtmailError
from crdtmail.screen import flags, out, table
from crdtmail.verify import verify

NAMES = ("mx1", "mx2", "mx3")
ACCOUNT = "alice@example.org"
_ENDS = (signal.SIGINT, signal.SIGTERM)
_START_S = 20.0
_CONVERGE_S = 30.0


class DemoError(CrdtmailError):
    """The demonstration did not come out as it should have."""


def demo(*, chain: bool, keep: bool) -> int:
    """Play the story; 0 if all nodes end equal with the flags that were wanted."""
    for number in _ENDS:
        signal.signal(number, _interrupt_once)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crdtmail-demo-")))
        network = stack.enter_context(_network())
        nodes = _start(stack, folder, network, chain=chain)
        _play(nodes, network, chain=chain)
        if keep:
            out.print("\nThe nodes are left running; Ctrl-C ends them.  Try:")
            out.print(f"  crdtmail status --node {nodes[0].address}", markup=False)
            out.print(f"  crdtmail flag --node {nodes[1].address} {ACCOUNT} INBOX 1:* +Work", markup=False)
            out.print(f"  crdtmail mailbox show --node {nodes[2].address} {ACCOUNT} INBOX", markup=False)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                out.print("ended")
    return 0


def _interrupt_once(number: int, frame: object) -> None:
    """End, and leave nothing behind: whoever is impatient does not interrupt that."""
    for end in _ENDS:
        signal.signal(end, signal.SIG_IGN)
    raise KeyboardInterrupt


def _play(nodes: list[Client], network: _Network, *, chain: bool) -> None:
    first, second, third = nodes
    other = third if chain else second
    said = NAMES[nodes.index(other)]
    out.print(f"Three nodes, {'in a chain mx1 - mx2 - mx3' if chain else 'all connected with all'}.\n")

    first.create_mailbox(ACCOUNT, "INBOX", isSubscribed=True)
    _deliver(first, "offer", "$flagged")
    _until_equal(nodes)
    _show(nodes, "1. A flagged message has come in on mx1, and is everywhere.")

    network.cut("mx1")
    _flag(first, "offer", {"$answered": True})
    _flag(other, "offer", {"$seen": True, "$flagged": None})
    _deliver(first, "minutes")
    _deliver(other, "invoice")
    _until_equal([second, third])
    _show(
        nodes,
        f"2. mx1 is cut off.  It: +\\Answered, new mail.  {said}: +\\Seen -\\Flagged, other new mail.",
    )

    network.heal()
    documents = _until_equal(nodes)
    _show(nodes, "3. The cut is healed.")
    offer = next(message for message in documents[0]["messages"] if message["id"] == "offer")
    got = flags(offer["keywords"])
    if got != "\\Answered \\Seen" or len(documents[0]["messages"]) != 3:
        raise DemoError(f"the message ended with the flags ({got}) instead of (\\Answered \\Seen)")
    out.print("All three nodes are equal; the message is \\Answered \\Seen; no mail is lost.")


def _deliver(node: Client, id: str, *keywords: str) -> None:
    message = {"id": id, "size": 1000 + len(id), "keywords": dict.fromkeys(keywords, True)}
    node.at(ACCOUNT, "INBOX", "POST", "/messages", {"messages": [message]})


def _flag(node: Client, id: str, changes: dict[str, bool | None]) -> None:
    patch = {f"keywords/{keyword}": to for keyword, to in changes.items()}
    node.at(ACCOUNT, "INBOX", "PATCH", "/messages", {"ids": [id], "patch": patch})


def _until_equal(nodes: list[Client]) -> list[dict[str, Any]]:
    """Wait until these nodes show the same mailbox, UIDs included; what they show."""
    deadline = time.monotonic() + _CONVERGE_S
    while time.monotonic() < deadline:
        if verify([node.address for node in nodes], timeout_s=_START_S).agrees:
            documents = [node.mailbox(ACCOUNT, "INBOX") for node in nodes]
            if all(document["messages"] == documents[0]["messages"] for document in documents):
                return documents
        time.sleep(0.05)
    raise DemoError(f"the nodes are not equal after {_CONVERGE_S:.0f} seconds")


def _show(nodes: list[Client], title: str) -> None:
    """What each node shows of the mailbox: a row a message, a column a node."""
    documents = [node.mailbox(ACCOUNT, "INBOX") for node in nodes]
    ids = list(dict.fromkeys(message["id"] for document in documents for message in document["messages"]))
    shown = table("INBOX", *NAMES, title=title)
    for id in ids:
        cells = []
        for document in documents:
            message = next((each for each in document["messages"] if each["id"] == id), None)
            cells.append("-" if message is None else f"UID {message['uid']} ({flags(message['keywords'])})")
        shown.add_row(id, *cells)
    out.print(shown)
    out.print()


# The nodes ------------------------------------------------------------------------------------------------


def _start(stack: ExitStack, folder: Path, network: _Network, *, chain: bool) -> list[Client]:
    """Start the nodes, each calling the others through links of `network`."""
    neighbours = [(0, 1), (1, 2)] if chain else [(0, 1), (0, 2), (1, 2)]
    calls = neighbours + [(callee, caller) for caller, callee in neighbours]
    links = {(a, b): network.link(NAMES[a], NAMES[b]) for a, b in calls}
    clients = []
    for index, name in enumerate(NAMES):
        peers = [link.address for (source, _), link in links.items() if source == index]
        port = _start_node(stack, name, folder / name, peers)
        for (_, target), link in links.items():
            if target == index:
                link.target = port
        client = Client(f"http://127.0.0.1:{port}")
        stack.callback(client.close)
        clients.append(client)
    return clients


def _start_node(stack: ExitStack, name: str, data: Path, peers: list[str]) -> int:
    """Start one node as a process that ends with the stack; its port."""
    command = [sys.executable, "-m", "crdtmail", "node", "--name", name, "--data", str(data)]
    command += ["--listen", "127.0.0.1:0", *(word for peer in peers for word in ("--peer", peer))]
    data.mkdir()
    log = stack.enter_context((data.parent / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    )
    stack.callback(_stop, process)
    assert process.stdout is not None
    ready = process.stdout.readline().decode()
    _, found, port = ready.partition("listening on http://127.0.0.1:")
    if not found:
        reason = (data.parent / f"{name}.log").read_text(errors="replace").strip()
        raise DemoError(f"{name} did not start: {reason or 'it said nothing'}")
    return int(port.split(",")[0])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


# The links ------------------------------------------------------------------------------------------------


class Link:
    """A relay from one node to another, which lets nothing through while it is cut."""

    def __init__(self, source: str, target: str) -> None:
        self.ends = {source, target}
        self.target: int | None = None
        self.address = ""
        self.is_cut = False
        self._streams: set[asyncio.StreamWriter] = set()

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    def cut(self) -> None:
        self.is_cut = True
        for stream in self._streams:
            stream.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut or self.target is None:
            writer.close()
            return
        try:
            onward, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._streams |= {writer, back}
        try:
            await asyncio.gather(_pump(reader, back), _pump(onward, writer))
        finally:
            self._streams -= {writer, back}
            writer.close()
            back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one of the two ends has gone, or the link was cut: the other direction hears of it too
    writer.close()


class _Network:
    """All links, in an event loop of their own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._links: list[Link] = []

    def link(self, source: str, target: str) -> Link:
        link = Link(source, target)
        asyncio.run_coroutine_threadsafe(link.open(), self._loop).result()
        self._links.append(link)
        return link

    def cut(self, name: str) -> None:
        """Cut every link of one node."""
        self._each(lambda link: link.cut() if name in link.ends else None)

    def heal(self) -> None:
        self._each(lambda link: setattr(link, "is_cut", False))

    def _each(self, change: Callable[[Link], None]) -> None:
        async def change_all() -> None:
            for link in self._links:
                change(link)

        asyncio.run_coroutine_threadsafe(change_all(), self._loop).result()


@contextmanager
def _network() -> Iterator[_Network]:
    """A loop in a thread for the links."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="links", daemon=True)
    thread.start()
    try:
        yield _Network(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
