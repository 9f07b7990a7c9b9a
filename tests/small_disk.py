"""A real disk of a few hundred KiB for tests, which fills up when told to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KIB = 1024


class SmallDisk:
    """A tmpfs; `folder` lies on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, leaving: int = 0) -> None:
        """Take all the room but so many bytes."""
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            while (room := self.room() - leaving) > 0:
                filler.write(bytes(room))

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def room(self) -> int:
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_frsize

    def remount(self, how: str) -> None:
        _mount("-o", f"remount,{how}", self.folder)


@contextmanager
def small_disk(folder: Path, size: int = 4096 * KIB) -> Iterator[SmallDisk]:
    """Mounted on `folder` to the end of the block; the test is skipped where nobody may mount anything."""
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
