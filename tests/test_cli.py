"""The command line against a running node: what it says, and its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import NodeProcess, node_process

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
    with node_process(tmp_path / "mx3", "--name", "mx3") as stranger:
        differing = crdtmail("verify", node.address, stranger.address)
        assert differing.returncode == 1
        assert f"DIFFERS: {ALICE} / INBOX" in differing.stdout
    unreachable = crdtmail("verify", node.address, stranger.address)
    assert unreachable.returncode == 3
    assert "UNREACHABLE" in unreachable.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "--node", "http://127.0.0.1:1"), 3, "does not answer"),
        (("status", "--node", "ftp://x"), 2, "is no address of a node"),
        (("node", "--config", "/nowhere.toml"), 2, "cannot be read"),
        (("node", "--listen", "everywhere"), 2, "an address and a port were expected"),
        (("node", "--listen", "0.0.0.0:0"), 2, "has no authentication"),
        (("node", "--peer", "mx2/path"), 2, "is no address of a node"),
        (("import", "alice", "/nowhere"), 2, "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
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


@pytest.mark.parametrize("form", [(), ("--chain",)], ids=["mesh", "chain"])
def test_the_demonstration_ends_with_equal_nodes(form: tuple[str, ...]) -> None:
    result = crdtmail("demo", *form)
    assert result.returncode == 0, result.stderr
    final = result.stdout.split("3. The cut is healed.")[1]
    assert final.count("(\\Answered \\Seen)") == 3
    assert "All three nodes are equal" in final


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demonstration_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crdtmail", "demo", "--keep"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any("left running" in line for line in lines)
    address = next(line for line in lines if "crdtmail status" in line).split()[-1]
    assert crdtmail("status", "--node", address).returncode == 0
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert crdtmail("status", "--node", address).returncode == 3
