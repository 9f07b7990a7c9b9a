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
from crdtmail.limits import MAX_PEER_NAME, MIB
from crdtmail.replica import Keep

DEFAULT_PORT = 7420
_KEEP_MB = 1024  # some ten million changes
_KEEP_DAYS = 30
DEFAULT_KEEP = Keep(bytes=_KEEP_MB * MIB, age_ms=_KEEP_DAYS * 86_400_000)
_PORT = re.compile("[0-9]{1,5}")
_HOST = re.compile("[!-~]+")
_KEYS = {"name", "data", "listen", "peers", "cluster_secret_file", "cluster", "tls", "gossip", "log"}
_TLS = {"certificate", "key", "ca"}
_LOG = {"keep_mb", "keep_days"}
_TIMING = {"interval": "interval_s", "grace": "grace_s", "last_retry": "last_retry_s"}


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of a node's certificate and key; with `ca`, peers must have a certificate signed by it."""

    certificate: Path
    key: Path
    ca: Path | None


@dataclass(frozen=True, slots=True)
class Config:
    """One node.  `peers` are the addresses (http://host:port) that it calls; the others may call it too.

    Secrets are named by their files, never held here.
    """

    name: str
    data: Path
    host: str
    port: int
    peers: tuple[str, ...]
    timing: Timing
    keep: Keep = DEFAULT_KEEP
    tls: Certificates | None = None
    cluster_secret_file: Path | None = None
    cluster: str = ""
    """Nodes of a cluster with another name are refused."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the node."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


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
    tls = _tls(settings["tls"]) if "tls" in settings else None
    return Config(
        name=_name(settings.get("name", socket.gethostname())),
        data=_file(settings, "data") or default_data(),
        host=host,
        port=port,
        peers=_peers(settings.get("peers", []), "http" if tls is None else "https"),
        timing=_timing(settings.get("gossip", {})),
        keep=_keep(settings.get("log", {})),
        tls=tls,
        cluster_secret_file=_file(settings, "cluster_secret_file"),
        cluster=_name(settings["cluster"], "cluster") if "cluster" in settings else "",
    )


def default_data() -> Path:
    """Where one node keeps its state when nobody says where: the XDG data folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "crdtmail"


def split_address(value: str, scheme: str = "http") -> str:
    """A node's address as it is used: scheme and authority, nothing behind.  Raises ConfigError."""
    try:
        parts = urlsplit(value if "://" in value else f"{scheme}://{value}")
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    # Whatever else an address can hold would be ignored; better say so.
    is_bare = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or not is_bare:
        raise ConfigError(f"{value!r} is no address of a node; it looks like http://mx2.example.org:7420")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{DEFAULT_PORT if port is None else port}"


def _peers(value: object, scheme: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(peer, str) for peer in value):
        raise ConfigError("peers must be a list of addresses")
    found = tuple(dict.fromkeys(split_address(peer, scheme) for peer in value))
    for peer in found:
        if scheme == "https" and not peer.startswith("https:"):
            raise ConfigError(
                f"the peer {peer} would be called in the clear although there is [tls]: use https"
            )
    return found


def _tls(value: object) -> Certificates:
    if not isinstance(value, dict) or not value.keys() <= _TLS:
        raise ConfigError(f"[tls] knows {', '.join(sorted(_TLS))}, each the path of a file")
    certificate, key = _file(value, "certificate"), _file(value, "key")
    if certificate is None or key is None:
        raise ConfigError("[tls] needs certificate and key, the paths of two files in PEM")
    return Certificates(certificate, key, _file(value, "ca"))


def _file(settings: Mapping[str, Any], key: str) -> Path | None:
    try:
        return Path(_text(settings[key], key)).expanduser() if key in settings else None
    except RuntimeError as error:
        raise ConfigError(f"{key} = {settings[key]!r}: there is no such user") from error


def _listen(value: object) -> tuple[str, int]:
    host, colon, port = _text(value, "listen").rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535 or not host:
        raise ConfigError(f"listen = {value!r}: an address and a port were expected, like 127.0.0.1:7420")
    return host.strip("[]"), int(port)


def _name(value: object, what: str = "name") -> str:
    name = _text(value, what)
    if not 0 < len(name) <= MAX_PEER_NAME or not name.isprintable():
        raise ConfigError(f"{what} must be printable text of at most {MAX_PEER_NAME} characters")
    return name


def _timing(value: object) -> Timing:
    if not isinstance(value, dict) or not value.keys() <= _TIMING.keys():
        raise ConfigError(f"[gossip] knows {', '.join(sorted(_TIMING))}, in seconds")
    for key, given in value.items():
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0.01 <= given <= 3600:
            raise ConfigError(f"[gossip] {key} must be a number of seconds from 0.01 to 3600")
    return Timing(**{_TIMING[key]: float(given) for key, given in value.items()})


def _keep(value: object) -> Keep:
    if not isinstance(value, dict) or not value.keys() <= _LOG:
        raise ConfigError("[log] knows keep_mb and keep_days")
    for key, given in value.items():
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 10**6:
            raise ConfigError(f"[log] {key} must be a number from 0 to 1,000,000")
    megabytes, days = value.get("keep_mb", _KEEP_MB), value.get("keep_days", _KEEP_DAYS)
    return Keep(bytes=int(megabytes * MIB), age_ms=int(days * 86_400_000))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what} must be text that is not empty")
    return value
