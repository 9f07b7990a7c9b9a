"""Calls of Linux that Python's library does not have."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from pathlib import Path

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG (linux/prctl.h)
_HERE = -100  # AT_FDCWD (linux/fcntl.h)
_OVERWRITE_NOTHING, _EXCHANGE = 1, 2  # linux/fs.h
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""What is answered where the kernel, or the file system, has no such renaming."""

_library = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """For a process that was just forked: the kernel ends it when the process `parent` has ended."""
    _library.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places, in one step that a crash cannot cut; False where that is not possible."""
    return _rename(one, other, _EXCHANGE)


def rename_to_new(old: Path, new: Path) -> bool:
    """Rename without overwriting anything; False where that is not possible.  Raises FileExistsError."""
    return _rename(old, new, _OVERWRITE_NOTHING)


def _rename(old: Path, new: Path, how: int) -> bool:
    try:
        call = _library.renameat2
    except AttributeError:  # an old library
        return False
    if call(_HERE, os.fsencode(old), _HERE, os.fsencode(new), how) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code), str(new))
