"""`crdtmail certs`: the certificates with which the nodes of one cluster know each other."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from crdtmail import screen
from crdtmail.errors import ConfigError

_HOSTS = "hosts.txt"
"""Beside the authority: a node in each line, with the names and addresses in its certificate."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    certs = commands.add_parser(
        "certs",
        help="make certificates with which the nodes know each other",
        description=(
            "Make a private certificate authority, and a certificate for each node, in FOLDER.  Run it again "
            "to add nodes: it uses the same authority and overwrites nothing."
        ),
    )
    certs.add_argument(
        "folder", type=Path, metavar="FOLDER", help="on a machine that you trust, not on a node"
    )
    certs.add_argument("names", nargs="+", metavar="NAME", help="a node, by the host's name that peers call")
    certs.add_argument(
        "--host",
        action="append",
        type=_host,
        default=[],
        metavar="NAME:HOST",
        help="another name or address at which peers and clients call that node; may be given often",
    )
    certs.set_defaults(command=_certs)


def _certs(options: argparse.Namespace) -> int:
    from crdtmail.security import certificates  # no other command needs to load its library

    folder: Path = options.folder
    for name, host in options.host:
        if (folder / name).exists() and host.strip("[]") not in certificates.hosts(folder / name):
            raise ConfigError(
                f"{host} is not in {name}'s certificate, which is there already and stays as it is: to have "
                f"it in, remove {folder / name} and run the command again"
            )
    remembered = _remembered(folder)
    again = [(name, host) for name in options.names for host in remembered.get(name, [])]
    now = datetime.datetime.now(datetime.UTC)
    new = certificates.make(folder, options.names, [*again, *options.host], now)
    remembered |= {name: certificates.hosts(folder / name) for name in options.names}
    _remember(folder, remembered)
    said = [f"The authority is {folder / 'ca'}: its key signs for the whole cluster and belongs on no node."]
    for name in dict.fromkeys(options.names):
        if name not in new:
            said.append(f"{name}: is there already, and stays as it is.")
            continue
        at = ", ".join(remembered[name])
        said.append(
            f"{name}: valid for {certificates.NODE_DAYS} days, at {at}.  "
            f"Copy {folder / name} to that node as /etc/crdtmail, owned by the user whom the node runs as."
        )
    if new:
        said.append(
            "In each node's configuration, with https:// in front of its peers:\n\n"
            "[tls]\n"
            'certificate = "/etc/crdtmail/node.crt"\n'
            'key = "/etc/crdtmail/node.key"\n'
            'ca = "/etc/crdtmail/ca.crt"'
        )
    screen.out.print("\n".join(said), markup=False)
    return 0


def _remembered(folder: Path) -> dict[str, list[str]]:
    """The names and addresses of the nodes, also of one whose certificate was removed to be renewed."""
    try:
        lines = (folder / "ca" / _HOSTS).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'ca' / _HOSTS} cannot be read: {error}") from error
    return {name: hosts for name, *hosts in map(str.split, lines) if hosts}


def _remember(folder: Path, hosts: dict[str, list[str]]) -> None:
    text = "".join(f"{name} {' '.join(of)}\n" for name, of in sorted(hosts.items()))
    try:
        (folder / "ca" / _HOSTS).write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{folder / 'ca' / _HOSTS} cannot be written: {error.strerror}") from error


def _host(given: str) -> tuple[str, str]:
    name, colon, host = given.partition(":")
    if not colon or not host:
        raise ConfigError(
            f"--host {given}: a node's name, a colon and a host were expected, like mx1:10.0.0.1"
        )
    return name, host
