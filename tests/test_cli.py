"""The command line against a running node: what it says, and its exit codes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crdtmail import cli, limits, screen
from crdtmail.security import tokens
from crdtmail.security.tokens import Scope
from tests.nodes import PATIENCE_S, NodeProcess, node_process, write_timing
from tests.secured import certified

ALICE = "alice@example.org"


def crdtmail(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crdtmail", *arguments]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with node_process(tmp_path / "node", "--name", "mx1") as it:
        yield it


def maildir(folder: Path) -> Path:
    """A Maildir with a subfolder, as Dovecot leaves it."""
    root = folder / "Maildir"
    for name, files in (
        ("", {"1700000001.M1P1.mx,S=5,W=6:2,FS": b"a: b\n", "1700000002.M2P1.mx,S=5,W=6:2,": b"c: d\n"}),
        (".Work.2026", {"1700000003.M3P1.mx,S=5,W=6:2,RST": b"e: f\n"}),
    ):
        for part in ("cur", "new", "tmp"):
            (root / name / part).mkdir(parents=True)
        for file, content in files.items():
            (root / name / "cur" / file).write_bytes(content)
            os.utime(root / name / "cur" / file, (1_700_000_000, 1_700_000_000))
    (root / "subscriptions").write_text("Work.2026\n")
    return root


def test_a_maildir_is_imported_once_however_often_it_is_imported(node: NodeProcess, tmp_path: Path) -> None:
    source = maildir(tmp_path)
    first = crdtmail("import", "--node", node.address, ALICE, str(source))
    assert first.returncode == 0, first.stderr
    elsewhere = crdtmail("import", "--node", node.address, "--into", "Old", ALICE, str(source))
    assert (elsewhere.returncode, "only an mbox file" in elsewhere.stderr) == (2, True)
    before = node.client().status()["clock"]
    again = crdtmail("import", "--node", node.address, ALICE, str(source))
    assert again.returncode == 0
    assert node.client().status()["clock"] == before
    (tmp_path / "other").mkdir()
    with node_process(tmp_path / "other" / "mx2", "--name", "mx2", "--peer", node.address) as second:
        assert crdtmail("import", "--node", second.address, ALICE, str(source)).returncode == 0
        listed = {box["name"]: box["totalEmails"] for box in second.client().mailboxes(ALICE)}
    assert listed == {"INBOX": 2, "Work/2026": 1}
    work = node.client().mailbox(ALICE, "Work/2026")
    assert work["isSubscribed"] is True
    (message,) = work["messages"]
    assert message["keywords"] == {"$answered": True, "$deleted": True, "$seen": True}
    assert (message["size"], message["receivedAt"]) == (6, "2023-11-14T22:13:20Z")


def test_mailboxes_are_listed_shown_flagged_and_expunged(node: NodeProcess, tmp_path: Path) -> None:
    at = ("--node", node.address)
    crdtmail("import", *at, ALICE, str(maildir(tmp_path)))
    assert "Work/2026" in crdtmail("mailbox", "list", *at, ALICE).stdout
    shown = crdtmail("mailbox", "show", *at, ALICE, "INBOX").stdout
    assert "2 messages, 1 unread" in shown
    assert "\\Flagged \\Seen" in shown
    assert (
        "1 message(s) changed"
        in crdtmail("flag", *at, ALICE, "INBOX", "1", "-\\Flagged", "+Seen", "+Work").stdout
    )
    assert "2 message(s) changed" in crdtmail("flag", *at, ALICE, "INBOX", "1:*", "+\\Deleted").stdout
    assert "\\Deleted \\Seen work" in crdtmail("mailbox", "show", *at, ALICE, "INBOX").stdout
    assert "1 message(s) expunged" in crdtmail("expunge", *at, ALICE, "INBOX", "1").stdout
    assert "1 message(s) expunged" in crdtmail("expunge", *at, ALICE, "INBOX").stdout
    assert "0 messages" in crdtmail("mailbox", "show", *at, ALICE, "INBOX").stdout


def test_watching_prints_changes_as_they_come_and_ends_on_ctrl_c(node: NodeProcess) -> None:
    client = node.client()
    client.create_mailbox(ALICE, "INBOX")
    command = [sys.executable, "-m", "crdtmail", "mailbox", "watch", "--node", node.address, ALICE, "INBOX"]
    watching = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert watching.stdout is not None
    assert "watching INBOX" in watching.stdout.readline()
    client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"id": "m1", "size": 1}]})
    assert watching.stdout.readline() == "* UID 1 FLAGS () m1\n"
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "Traceback" not in errors


def test_status_and_verify_tell_whether_nodes_agree(node: NodeProcess, tmp_path: Path) -> None:
    client = node.client()
    client.create_mailbox(ALICE, "INBOX")
    with node_process(tmp_path / "mx2", "--name", "mx2", "--peer", node.address) as second:
        token = client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"size": 1}]})["token"]
        second.client().request("GET", "/v1/accounts", query={"token": token, "tokenWait": "30"})
        status = crdtmail("status", "--node", second.address)
        assert status.returncode == 0
        assert "mx1" in status.stdout
        agreeing = crdtmail("verify", node.address, second.address)
        assert agreeing.returncode == 0, agreeing.stdout
        assert "2 nodes agree on 1 account(s)" in agreeing.stdout
        assert "2 nodes agree" in crdtmail("verify", "--node", second.address).stdout
        twice = crdtmail("verify", node.address, node.address.removeprefix("http://"))
        assert (twice.returncode, "one node alone" in twice.stdout) == (2, True)
    with node_process(tmp_path / "mx3", "--name", "mx3") as stranger:
        differing = crdtmail("verify", node.address, stranger.address)
        assert differing.returncode == 1
        assert f"DIFFERS: {ALICE} / INBOX" in differing.stdout
    unreachable = crdtmail("verify", node.address, stranger.address)
    assert unreachable.returncode == 3
    assert "UNREACHABLE" in unreachable.stdout


def test_a_member_that_is_no_peer_is_not_said_to_agree(tmp_path: Path) -> None:
    quick = str(write_timing(tmp_path))
    with (
        node_process(tmp_path / "mx1", "--name", "mx1", "--config", quick) as first,
        node_process(tmp_path / "mx2", "--name", "mx2", "--config", quick, "--peer", first.address) as second,
        node_process(tmp_path / "mx3", "--name", "mx3", "--config", quick, "--peer", first.address) as third,
    ):
        until(lambda: len(first.client().status()["members"]) == 2)
        some = crdtmail("verify", "--node", first.address, first.address, second.address)
        assert (some.returncode, "2 nodes agree" in some.stdout) == (0, True)
        assert "not compared: mx3 (not named)" in some.stdout
        until(lambda: second.client().status()["peers"][0]["name"] == "mx1")
        mine = crdtmail("verify", "--node", first.address)
        assert mine.returncode == 2, mine.stdout
        assert "not compared: mx2, mx3 (no peer of mx1)" in mine.stdout
        both = crdtmail("verify", "--node", second.address)
        assert "not compared: mx3 (no peer of mx2)" in both.stdout
        assert both.returncode == 3
        assert third.process.poll() is None
        shown = crdtmail("--node", second.address, "status")
        assert re.search(r"^store [\d,]+ bytes, [\d,]+ bytes are free on its disk$", shown.stdout, re.M)
        assert re.search(r"peer .* name .* state .* it lacks .* oldest waits", shown.stdout), shown.stdout
        assert "1 deltas" not in shown.stdout
        shown = crdtmail("--node", first.address, "status")
        assert "is no peer of this node, and learns of changes when it calls" in shown.stdout


def test_verify_says_which_node_does_not_know_the_token(node: NodeProcess, tmp_path: Path) -> None:
    text = tokens.create(tmp_path / "mx2", "me", list(Scope), ["*"], bytes(tokens.TOKEN_BYTES))
    with node_process(tmp_path / "mx2", "--name", "mx2") as second:
        bare = crdtmail("verify", node.address, second.address)
        assert bare.returncode == 5
        assert f"NOT LET IN: a token is needed at {second.address}: --token-file FILE" in bare.stdout
        (tmp_path / "token").touch(0o600)
        (tmp_path / "token").write_text(text[:-1] + "_")
        wrong = crdtmail("status", "--token-file", str(tmp_path / "token"), "--node", second.address)
        assert wrong.returncode == 5
        assert f"the token is not known at {second.address}: one that was made while" in wrong.stderr
        (tmp_path / "token").write_text(text)
        good = crdtmail("--token-file", str(tmp_path / "token"), "--node", second.address, "status")
        assert good.returncode == 0, good.stderr


def test_who_asks_in_the_wrong_way_is_told_the_right_one(node: NodeProcess, tmp_path: Path) -> None:
    files = certified(tmp_path / "certs", "mx2")
    settings = tmp_path / "tls.toml"
    settings.write_text(
        f'[tls]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\nca = "{files.ca}"\n'
    )
    with node_process(tmp_path / "mx2", "--config", str(settings)) as second:
        unknown = crdtmail("status", "--node", second.address)
        assert (unknown.returncode, "--ca FILE or $CRDTMAIL_CA" in unknown.stderr) == (3, True)
        assert crdtmail("status", "--node", second.address, "--ca", str(files.ca)).returncode == 0
        clear = crdtmail("status", "--node", second.address.replace("https", "http"))
        assert (clear.returncode, "ask it with https://" in clear.stderr) == (3, True), clear.stderr
    secured = crdtmail("status", "--node", node.address.replace("http", "https"))
    assert (secured.returncode, "ask it with http://" in secured.stderr) == (3, True), secured.stderr


def test_a_peer_that_is_late_is_told_to_who_asks_for_it(node: NodeProcess, tmp_path: Path) -> None:
    with node_process(tmp_path / "mx2", "--name", "mx2", "--peer", "http://127.0.0.1:1") as second:
        assert crdtmail("status", "--node", second.address).returncode == 0
        late = crdtmail("status", "--node", second.address, "--max-lag", "60")
        assert late.returncode == 1
        assert "LATE: what http://127.0.0.1:1 lacks is not known: it was never reached" in late.stdout
    assert crdtmail("status", "--node", node.address, "--max-lag", "60").returncode == 0


def test_retiring_asks_before_it_hits_a_member_that_is_alive(node: NodeProcess, tmp_path: Path) -> None:
    with node_process(tmp_path / "mx2", "--name", "mx2", "--peer", node.address) as second:
        until(lambda: bool(node.client().status()["members"]))
        refused = crdtmail("retire", "--node", node.address, "mx2")
        assert refused.returncode == 1
        assert re.search(r"mx2 \([0-9a-f]{16}\) was heard of \d+ s ago: .*--force", refused.stderr)
        replica = second.client().status()["replica"]
    forced = crdtmail("retire", "--force", "--node", node.address, "mx2")
    assert forced.stdout == f"retired mx2 ({replica}); every node that knew it hears of it\n"
    again = crdtmail("retire", "--node", node.address, "mx2")
    assert (again.returncode, again.stdout) == (0, f"retired already: mx2 ({replica})\n")
    assert f"mx2 ({replica}) is retired; last heard" in crdtmail("status", "--node", node.address).stdout


def test_one_is_no_more_than_one() -> None:
    member = {"name": "mx2", "replica": "00000000000000ff", "lastHeardSeconds": 1, "isRetired": False}
    peer: dict[str, Any] = {
        "address": "http://mx3",
        "name": None,
        "replica": None,
        "lag": {"deltas": 1, "seconds": 61.0},
    }
    status = {"peers": [peer], "members": [member | {"counts": True, "heldBack": 1}]}
    assert list(cli._lagging(status, 60)) == ["http://mx3 lacks 1 delta for 61 s"]
    peer["lag"] = {"deltas": 2, "seconds": None}
    (said,) = cli._lagging(status, 60)
    assert said == "http://mx3 lacks 2 deltas, and for longer than the log reaches back"
    (said,) = cli._members_without_peer(status)
    assert said.endswith(", 1 change is kept in the log for it")
    status["members"] = [member | {"counts": True, "heldBack": 2}]
    assert next(cli._members_without_peer(status)).endswith(", 2 changes are kept in the log for it")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "--node", "http://127.0.0.1:1"), 3, "does not answer"),
        (("--node", "http://127.0.0.1:1", "status"), 3, "http://127.0.0.1:1 does not answer"),
        (("flag", "alice", "INBOX", "1", "+a\\b"), 2, "a\\b is no flag: \\Seen"),
        (("status", "--node", "ftp://x"), 2, "is no address of a node"),
        (("node", "--config", "/nowhere.toml"), 2, "cannot be read"),
        (("node", "--listen", "everywhere"), 2, "an address and a port were expected"),
        (("node", "--peer", "mx2/path"), 2, "is no address of a node"),
        (("node", "--peer", "mx2:99999"), 2, "is no address of a node"),
        (("node", "--peer", "http://ops:secret@mx2"), 2, "is no address of a node"),
        (("node", "--peer", "http://[::1"), 2, "is no address of a node"),
        (("node", "--data", "/dev/null", "--listen", "127.0.0.1:0"), 2, "/dev/null cannot be used"),
        (("node", "--name", "a\nb"), 2, "name must be printable text"),
        (("status", "--node", "http://127.0.0.1:99999"), 2, "is no address of a node"),
        (("status", "--node", "http://mx 2"), 2, "is no address of a node"),
        (("status", "--node", "http://mx2..example.org"), 2, "is no address of a node"),
        (("status", "--node", "https://mx2/?a=b"), 2, "is no address of a node"),
        (("mailbox", "list", "--node", "http://127.0.0.1:1", "alice"), 3, "does not answer"),
        (("mailbox", "list", ""), 2, "an account is text that is not empty"),
        (("mailbox", "watch", "--node", "http://127.0.0.1:1", "alice", "INBOX"), 3, "does not answer"),
        (("flag", "alice", "INBOX", "1", "--ids", "+Seen"), 2, "options stand before the account"),
        (("flag", "alice", "INBOX", "1"), 2, "no change is named"),
        (("verify", "--timeout", "-1"), 2, "a number of seconds above 0"),
        (("verify", "--timeout", "nan"), 2, "a number of seconds above 0"),
        (("import", "alice", "/nowhere"), 2, "/nowhere"),
        (("import", "alice", __file__), 2, "not an mbox file"),
    ],
    ids=lambda value: repr(" ".join(value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: tuple[str, ...], code: int, said: str) -> None:
    result = crdtmail(*arguments)
    assert result.returncode == code
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_what_the_node_refuses_is_said_in_one_line(node: NodeProcess) -> None:
    for arguments in (("mailbox", "show"), ("expunge",)):
        result = crdtmail(*arguments, "--node", node.address, ALICE, "Nowhere")
        assert result.returncode == 1
        assert "has no mailbox named 'Nowhere'" in result.stderr
    for bad in ("Seen", "+", "+a b"):
        assert crdtmail("flag", "--node", node.address, ALICE, "INBOX", "1", bad).returncode == 2


def test_a_folder_is_refused_before_anything_is_sent_if_it_holds_no_mail(
    node: NodeProcess, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    result = crdtmail("import", "--node", node.address, ALICE, str(tmp_path / "empty"))
    assert result.returncode == 2
    assert "not a Maildir" in result.stderr
    assert node.client().status()["clock"] == {}


def test_an_mbox_is_imported_once(node: NodeProcess, tmp_path: Path) -> None:
    message = "From ada@example.org Tue Nov 24 06:51:41 2026 +0000\nSubject: {}\nStatus: RO\n\ntext\n\n"
    (tmp_path / "Archive").write_text(message.format(1) + message.format(2) + message.format(1))
    arguments = ("import", "--node", node.address, ALICE, str(tmp_path / "Archive"))
    assert crdtmail(*arguments).returncode == 0
    before = node.client().status()["clock"]
    again = crdtmail(*arguments)
    assert again.returncode == 0
    assert node.client().status()["clock"] == before
    (box,) = node.client().mailboxes(ALICE)
    messages = node.client().mailbox(ALICE, box["name"])["messages"]
    assert [(m["receivedAt"], m["keywords"]) for m in messages] == [
        ("2026-11-24T06:51:41Z", {"$seen": True})
    ] * 3
    into = crdtmail("import", "--into", "INBOX", *arguments[1:])
    assert into.returncode == 0, into.stderr
    assert node.client().mailbox(ALICE, "INBOX")["totalEmails"] == 3


def test_two_copies_of_a_message_in_one_folder_are_both_imported(node: NodeProcess, tmp_path: Path) -> None:
    """Dovecot gives both the same GUID if one was copied from the other."""
    root = maildir(tmp_path)
    (root / "dovecot-uidlist").write_text(
        "3 V1 N3 Gabc\n1 Gsame :1700000001.M1P1.mx,S=5,W=6\n2 Gsame :1700000002.M2P1.mx,S=5,W=6\n"
    )
    for added in ((2, 0), (0, 2)):
        result = crdtmail("import", "--node", node.address, ALICE, str(root))
        assert result.returncode == 0, result.stderr
        inbox = next(line for line in result.stdout.splitlines() if "INBOX" in line)
        assert tuple(int(cell) for cell in re.findall(r"\b\d+\b", inbox)) == added
    messages = node.client().mailbox(ALICE, "INBOX")["messages"]
    assert [message["id"] for message in messages] == ["same", "same-2"]
    assert messages[0]["keywords"] == {"$flagged": True, "$seen": True}


def test_names_reach_the_node_as_they_are_typed(node: NodeProcess) -> None:
    at = ("--node", node.address)
    for account, mailbox in (("ada/ops", "Entwürfe/50%"), ("ä?#@b", "..")):
        created = crdtmail("mailbox", "create", *at, account, mailbox)
        assert created.stdout.startswith(f"{mailbox} created (id "), created.stderr
        assert mailbox in crdtmail("mailbox", "list", *at, account).stdout
        assert crdtmail("mailbox", "show", *at, account, mailbox).returncode == 0
        again = crdtmail("mailbox", "create", *at, account, mailbox)
        assert (again.returncode, "exists already" in again.stderr) == (1, True)


def test_messages_can_be_named_by_their_ids(node: NodeProcess) -> None:
    client = node.client()
    client.create_mailbox(ALICE, "INBOX")
    client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"id": n, "size": 1} for n in "321"]})
    at = ("--node", node.address, "--ids", ALICE, "INBOX")
    assert "2 message(s) changed" in crdtmail("flag", *at, "1,3", "--", "-Work", "+\\Seen", "+a/b~c").stdout
    assert "1 message(s) expunged" in crdtmail("expunge", *at, "2").stdout
    messages = client.mailbox(ALICE, "INBOX")["messages"]
    assert {m["id"]: set(m["keywords"]) for m in messages} == {
        "3": {"$seen", "a/b~c"},
        "1": {"$seen", "a/b~c"},
    }


def test_a_table_that_another_program_reads_is_not_folded(node: NodeProcess) -> None:
    long = "/".join(["Projects"] * 20)
    client = node.client()
    made = client.create_mailbox(ALICE, long)
    command = [sys.executable, "-m", "crdtmail", "mailbox", "list", "--node", node.address, ALICE]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (line,) = [line for line in result.stdout.splitlines() if "Projects" in line]
    assert long in line
    assert made["id"] in line


def test_a_reader_that_leaves_early_is_no_error(node: NodeProcess) -> None:
    node.client().create_mailbox(ALICE, "INBOX")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "crdtmail", "status", "--node", node.address]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert result.stderr == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_ends_quietly_and_at_once_also_while_clients_wait(
    tmp_path: Path, number: signal.Signals
) -> None:
    with node_process(tmp_path / "node") as it:
        client = it.client()
        client.create_mailbox(ALICE, "INBOX")
        command = [sys.executable, "-m", "crdtmail", "mailbox", "watch", "--node", it.address, ALICE, "INBOX"]
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        assert "watching" in watching.stdout.readline()
        client.at(ALICE, "INBOX", "POST", "/messages", {"messages": [{"id": "m1", "size": 1}]})
        assert "m1" in watching.stdout.readline()
        it.process.send_signal(number)
        assert it.process.wait(limits.SHUTDOWN_S / 2) == 0
        _, said = watching.communicate(timeout=30)
    assert watching.returncode == 3
    assert said.startswith(f"crdtmail: the node at {it.address} does not answer: ")
    assert len(said.splitlines()) == 1
    log = [line.partition(" INFO ")[2] for line in (tmp_path / "node.log").read_text().splitlines()]
    assert [line.partition(": ")[2].partition(":")[0] for line in log] == [
        "started",
        "no tokens",
        "stopping",
        "stopped",
    ]


def test_what_is_no_node_is_called_so(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            result = crdtmail("status", "--node", address)
            assert (result.returncode, result.stdout) == (3, "")
            assert result.stderr == f"crdtmail: what answers at {address} is no crdtmail node\n"
            assert crdtmail("verify", address).returncode == 3
        finally:
            server.shutdown()


def test_a_port_that_is_taken_is_named(node: NodeProcess, tmp_path: Path) -> None:
    result = crdtmail(
        "node", "--data", str(tmp_path / "other"), "--listen", node.address.removeprefix("http://")
    )
    assert result.returncode == 2
    assert "cannot listen on " + node.address.removeprefix("http://") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_second_node_on_one_folder_is_refused(node: NodeProcess, tmp_path: Path) -> None:
    result = crdtmail("node", "--data", str(tmp_path / "node"), "--listen", "127.0.0.1:0")
    assert result.returncode == 2
    assert f"in use by another crdtmail process (pid {node.process.pid})" in result.stderr


def test_settings_come_from_a_file_and_flags_go_before_them(tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text('name = "from-file"\nlisten = "127.0.0.1:1"\n[gossip]\ninterval = 1\n')
    with node_process(tmp_path / "node", "--config", str(settings)) as it:
        assert it.client().status()["name"] == "from-file"
    settings.write_text("colour = 1\n")
    result = crdtmail("node", "--config", str(settings))
    assert result.returncode == 2
    assert "unknown setting 'colour'" in result.stderr


@pytest.mark.parametrize(
    ("reason", "ago_s", "is_shown"),
    [("gap", 59, True), ("filling", 61, False), ("too-slow", 3600, False), ("checksum", 3600, True)],
)
def test_what_befalls_sound_peers_too_is_shown_for_a_minute(
    reason: str, ago_s: float, is_shown: bool
) -> None:
    refusal = {"peer": "00000000000000ff", "name": "mx2", "reason": reason, "count": 1, "last": "why"}
    shown = list(cli._refusals({"refusals": [{**refusal, "lastSeconds": ago_s}]}))
    said = f"refused 1 time ({reason}) of 00000000000000ff (mx2), the last {ago_s} s ago: why"
    assert shown == ([said] if is_shown else [])


def test_a_bar_shows_the_ipv6_address_of_a_node_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(screen, "err", Console(file=shown, force_terminal=True, width=200))
    with screen.progress() as bar:
        bar.add_task("messages of https://[fd00::2]:7420", total=1)
    assert "messages of https://[fd00::2]:7420" in shown.getvalue()
