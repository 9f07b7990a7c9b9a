"""Files that hold secrets: nobody but their owner may read them, and they are replaced whole or not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from crdtmail.errors import ConfigError


def read_private(path: Path, what: str, limit: int) -> bytes:
    """What stands in the file.  Raises ConfigError if it cannot be read, or if others can read it too."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # a path may hold what no path can
        raise ConfigError(f"{what} {path} cannot be read: {_reason(error)}") from error
    if mode & 0o077:
        raise ConfigError(f"{what} {path} can be read or changed by others: chmod 600 {path}")
    if len(data) > limit:
        raise ConfigError(f"{what} {path} has more than {limit} bytes")
    return data


def write_private(path: Path, data: bytes) -> None:
    """Put `data` in the place of what is there, durably; a reader sees the old or the new, never a part.

    Written by root, the file belongs to whom its folder belongs to: the node must be able to read it.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            give_to_folders_owner(file.fileno(), path.parent)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def give_to_folders_owner(file: int, folder: Path) -> None:
    """What root makes in somebody's folder is theirs."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)


def read(path: Path) -> bytes:
    """What stands in a file that anybody may read.  Raises ConfigError."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
