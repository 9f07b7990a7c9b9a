"""The tokens of clients, in a file beside the data: who may do what with which accounts.

The file holds SHA-256 of each token.  A slow hash would gain nothing: it makes guessable passwords dearer to
guess, while these are 256 random bits.  For the same reason a token may be looked up by its hash: how long
that takes says something of the hash of a guess, and nothing of a token.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from crdtmail.errors import ConfigError
from crdtmail.limits import MAX_ACCESS_TOKENS, MAX_TOKENS_FILE
from crdtmail.security.files import give_to_folders_owner, read_private, write_private

FILE = "tokens.json"
TOKEN_BYTES = 32


class Scope(Enum):
    """What a token lets its bearer do.  None of them includes another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a token; `accounts` are patterns as shells have them."""

    name: str
    hash: str
    scopes: tuple[Scope, ...]
    accounts: tuple[str, ...]

    def sees(self, account: str) -> bool:
        return any(fnmatchcase(account, pattern) for pattern in self.accounts)


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[Token]


class Tokens:
    """The tokens that are in force."""

    def __init__(self, tokens: list[Token]) -> None:
        self.all = tuple(tokens)
        self._by_hash = {token.hash: token for token in tokens}

    def find(self, text: str) -> Token | None:
        hash = _hash(text)
        token = self._by_hash.get(hash)
        return token if token is not None and hmac.compare_digest(token.hash, hash) else None


def load(folder: Path) -> Tokens | None:
    """The tokens of the node with this data folder; None if none was ever made.  Raises ConfigError."""
    path = folder / FILE
    try:
        return Tokens(msgspec.json.decode(read_private(path, "the file", MAX_TOKENS_FILE), type=_Kept).tokens)
    except ConfigError as error:
        # Only what is not there may mean that nobody has to show a token; what cannot be read must not.
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        if isinstance(error.__cause__, PermissionError):
            raise ConfigError(
                f"{error}: the data folder and all that is in it must belong to the user that runs crdtmail"
            ) from error
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def create(folder: Path, name: str, scopes: list[Scope], accounts: list[str], random: bytes) -> str:
    """Make a token; the only time that it is told.  Raises ConfigError if the name is taken."""
    text = "crdtmail_" + base64.urlsafe_b64encode(random).rstrip(b"=").decode()
    with _changing(folder, make=True) as tokens:
        if any(token.name == name for token in tokens):
            raise ConfigError(f"there is a token named {name!r} already; revoke it first")
        if len(tokens) >= MAX_ACCESS_TOKENS:
            raise ConfigError(f"a node has at most {MAX_ACCESS_TOKENS} tokens")
        tokens.append(Token(name, _hash(text), tuple(dict.fromkeys(scopes)), tuple(accounts)))
    return text


def revoke(folder: Path, name: str) -> None:
    """Take a token away.  The file stays: without any token in it nobody is let in."""
    with _changing(folder, make=False) as tokens:
        left = [token for token in tokens if token.name != name]
        if len(left) == len(tokens):
            raise ConfigError(f"there is no token named {name!r}")
        tokens[:] = left


def check_folder(folder: Path) -> None:
    """Raises ConfigError if there is none: then it is another one that was meant."""
    try:
        is_there = folder.is_dir()
    except OSError as error:
        raise ConfigError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    if not is_there:
        raise ConfigError(f"there is no data folder {folder}")


@contextmanager
def _changing(folder: Path, *, make: bool) -> Iterator[list[Token]]:
    """The tokens, written back at the end of the block, with nobody else changing them meanwhile."""
    if not make:
        check_folder(folder)
    lock = -1
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "tokens.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_to_folders_owner(lock, folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = load(folder)
        tokens = [] if known is None else list(known.all)
        yield tokens
        write_private(folder / FILE, msgspec.json.format(msgspec.json.encode(_Kept(tokens))) + b"\n")
    except OSError as error:
        raise ConfigError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    finally:
        if lock >= 0:
            os.close(lock)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
