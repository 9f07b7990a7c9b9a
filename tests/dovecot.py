"""A real Dovecot for tests: its own configuration, its own user, a free port, gone at the end.

Everything it writes lies below the folder it is given, except its sockets: their paths must stay short.
Dovecot's mail processes refuse to run as root, so a test run by root starts it as `nobody`.
"""

from __future__ import annotations

import grp
import imaplib
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from tests.nodes import free_ports

Layout = Literal["maildir++", "fs", "mbox"]

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

CONFIGURATION = """
protocols = imap
listen = 127.0.0.1
base_dir = {run}
state_dir = {run}
log_path = /dev/stderr
ssl = no
disable_plaintext_auth = no
default_internal_user = {os_user}
default_internal_group = {os_group}
default_login_user = {os_user}
first_valid_uid = 1
first_valid_gid = 1
mail_location = {mail_location}
namespace inbox {{
  inbox = yes
  separator = /
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={home}
}}
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


@dataclass(frozen=True)
class Dovecot:
    """A running server with one user."""

    host: str
    port: int
    user: str
    password: str
    maildir: Path
    config: Path
    owner: tuple[int, int]
    log: list[str] = field(default_factory=list, repr=False)
    connections: list[imaplib.IMAP4] = field(default_factory=list, repr=False)

    def imap(self) -> imaplib.IMAP4:
        """A new connection, logged in."""
        connection = imaplib.IMAP4(self.host, self.port, timeout=START_TIMEOUT_S)
        self.connections.append(connection)
        connection.login(self.user, self.password)
        return connection

    def doveadm(self, *arguments: str) -> str:
        """What `doveadm <arguments>` prints; mail commands take `-u` and `user` themselves."""
        return subprocess.run(
            ["doveadm", "-c", str(self.config), *arguments],
            check=True, capture_output=True, text=True, errors="surrogateescape", cwd="/",
            user=self.owner[0], group=self.owner[1], extra_groups=other_groups(),
        ).stdout  # fmt: skip

    def give(self, path: Path) -> None:
        """Let the server read and write a file or a tree that a test made by hand."""
        for each in [path, *path.rglob("*")]:
            os.chown(each, *self.owner)


def is_installed() -> bool:
    return shutil.which("dovecot", path=search_path()) is not None


def search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def other_groups() -> list[int] | None:
    """The supplementary groups of the server: none of root's, else one's own."""
    return [] if os.getuid() == 0 else None


def mail_owner() -> tuple[int, int]:
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def let_others_pass(path: Path) -> None:
    """Root's temporary folders are closed to `nobody`: open the way through them, not their contents."""
    for folder in [path, *path.parents]:
        if folder.owner() == "root" and folder.stat().st_mode & 0o077 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)


def mail_location(layout: Layout, mail: Path) -> str:
    return {
        "maildir++": f"maildir:{mail}",
        "fs": f"maildir:{mail}:LAYOUT=fs",
        "mbox": f"mbox:{mail}:INBOX={mail}/inbox",
    }[layout]


@contextmanager
def running_dovecot(tmp_path: Path, layout: Layout = "maildir++") -> Iterator[Dovecot]:
    """Start Dovecot over an empty mail folder in `tmp_path`; the mail is still there after it stopped."""
    owner = mail_owner()
    home = tmp_path / "dovecot"
    maildir = home / "mail"
    maildir.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="dovecot-") as run:
        for folder in (home, maildir, Path(run)):
            os.chown(folder, *owner)
        Path(run).chmod(0o755)
        if os.getuid() == 0:
            let_others_pass(tmp_path)
        config = home / "dovecot.conf"
        server = Dovecot("127.0.0.1", free_ports(1)[0], "ada", "lovelace", maildir, config, owner)
        config.write_text(
            CONFIGURATION.format(
                run=run,
                home=home,
                mail_location=mail_location(layout, maildir),
                port=server.port,
                password=server.password,
                uid=owner[0],
                gid=owner[1],
                os_user=pwd.getpwuid(owner[0]).pw_name,
                os_group=grp.getgrgid(owner[1]).gr_name,
            )
        )
        with running_process(server):
            yield server


@contextmanager
def running_process(server: Dovecot) -> Iterator[None]:
    """The server's process: ready when this enters, ended when this leaves."""
    command = shutil.which("dovecot", path=search_path())
    assert command is not None, "dovecot is not installed"
    process = subprocess.Popen(
        [command, "-F", "-c", str(server.config)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/",
        user=server.owner[0], group=server.owner[1], extra_groups=other_groups(),
    )  # fmt: skip
    assert process.stderr is not None
    started = threading.Event()
    reader = threading.Thread(target=collect_log, args=(process.stderr, server.log, started), daemon=True)
    reader.start()
    try:
        # Dovecot listens before it logs that it is starting up.
        started.wait(START_TIMEOUT_S)
        if process.poll() is not None or not started.is_set():
            raise RuntimeError("Dovecot did not start:\n" + "".join(server.log))
        yield
    finally:
        # Dovecot would wait ten seconds for clients that are still connected.
        for connection in server.connections:
            connection.shutdown()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(STOP_TIMEOUT_S)


def collect_log(stream: IO[str], log: list[str], started: threading.Event) -> None:
    with stream:
        for line in stream:
            log.append(line)
            if "starting up" in line:
                started.set()
    started.set()
