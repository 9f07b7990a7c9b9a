"""What an operator may set: from a TOML file, over it the flags, below it defaults that suit one node."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crdtmail.errors import ConfigError
from crdtmail.gossip.session import Timing
from crdtmail.limits import MAX_PEER_NAME

DEFAULT_PORT = 7420
_PORT = re.compile("[0-9]{1,5}")
_HOST = re.compile("[!-~]+")
_KEYS = {"name", "data", "listen", "peers", "allow_unauthenticated", "gossip"}
_TIMING = {"interval": "interval_s", "grace": "grace_s", "last_retry": "last_retry_s"}


@dataclass(frozen=True, slots=True)
class Config:
    """One node.  `peers` are the addresses (http://host:port) that it calls; the others may call it too."""

    name: str
    data: Path
    host: str
    port: int
    peers: tuple[str, ...]
    timing: Timing


def load(file: Path | None, flags: Mapping[str, Any]) -> Config:
    """The configuration from `file` and `flags`, of which None means not given.  Raises ConfigError."""
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"the configuration {file} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists
            raise ConfigError(f"the configuration {file} is not TOML: {error}") from error
        unknown = sorted(settings.keys() - _KEYS)
        if unknown:
            raise ConfigError(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    settings |= {key: value for key, value in flags.items() if value is not None}
    host, port = _listen(settings.get("listen", f"127.0.0.1:{DEFAULT_PORT}"))
    if not _is_loopback(host) and settings.get("allow_unauthenticated") is not True:
        raise ConfigError(
            f"listening on {host} would let everybody who reaches it read and change all mailboxes: this "
            "version has no authentication.  Listen on loopback, or, on a network of your own that nobody "
            "else reaches, say so with allow_unauthenticated = true (--allow-unauthenticated)"
        )
    return Config(
        name=_name(settings.get("name", socket.gethostname())),
        data=_folder(settings.get("data", str(default_data()))),
        host=host,
        port=port,
        peers=_peers(settings.get("peers", [])),
        timing=_timing(settings.get("gossip", {})),
    )


def default_data() -> Path:
    """Where one node keeps its state when nobody says where: the XDG data folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "crdtmail"


def split_address(value: str) -> str:
    """A node's address as it is used: scheme and authority, nothing behind.  Raises ConfigError."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    # Whatever else an address can hold would be ignored; better say so.
    is_bare = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or not is_bare:
        raise ConfigError(f"{value!r} is no address of a node; it looks like http://mx2.example.org:7420")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{DEFAULT_PORT if port is None else port}"


def _peers(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(peer, str) for peer in value):
        raise ConfigError("peers must be a list of addresses")
    return tuple(dict.fromkeys(split_address(peer) for peer in value))


def _listen(value: object) -> tuple[str, int]:
    host, colon, port = _text(value, "listen").rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535 or not host:
        raise ConfigError(f"listen = {value!r}: an address and a port were expected, like 127.0.0.1:7420")
    return host.strip("[]"), int(port)


def _folder(value: object) -> Path:
    try:
        return Path(_text(value, "data")).expanduser()
    except RuntimeError as error:  # the home of somebody who is not known here
        raise ConfigError(f"data = {value!r}: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(value: object) -> str:
    name = _text(value, "name")
    if not 0 < len(name) <= MAX_PEER_NAME or not name.isprintable():
        raise ConfigError(f"name must be printable text of at most {MAX_PEER_NAME} characters")
    return name


def _timing(value: object) -> Timing:
    if not isinstance(value, dict) or not value.keys() <= _TIMING.keys():
        raise ConfigError(f"[gossip] knows {', '.join(sorted(_TIMING))}, in seconds")
    for key, given in value.items():
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0.01 <= given <= 3600:
            raise ConfigError(f"[gossip] {key} must be a number of seconds from 0.01 to 3600")
    return Timing(**{_TIMING[key]: float(given) for key, given in value.items()})


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what} must be text that is not empty")
    return value
