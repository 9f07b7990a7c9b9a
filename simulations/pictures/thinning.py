"""Fewer things where a picture cannot hold all of them, by rules that the picture can state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def one_of_how_many(count: int, limit: int) -> int:
    """The roundest n for which one of n of `count` things is at most `limit` of them."""
    if count <= limit:
        return 1
    size = 1
    while True:
        for first in (1, 2, 5):
            if -(-count // (first * size)) <= limit:
                return first * size
        size *= 10


def thin(things: Sequence[T], every: int) -> list[T]:
    """One of each `every` consecutive things.

    Which one is scattered: a fixed position would show only the questions of a traffic in which question and
    answer take turns.
    """
    if every == 1:
        return list(things)
    chosen: list[T] = []
    for number, start in enumerate(range(0, len(things), every)):
        batch = things[start : start + every]
        position = ((number + 1) * 2654435761 % 2**32 >> 8) % every
        if position < len(batch):
            chosen.append(batch[position])
    return chosen


def thin_steps(steps: Sequence[tuple[int, int]], end_us: int, columns: int) -> list[tuple[int, int]]:
    """The same curve for so many columns of pixels: of each its first, least, greatest and last value."""
    if len(steps) <= 4 * columns or end_us == 0:
        return list(steps)
    by_column: dict[int, list[tuple[int, int]]] = {}
    for step in steps:
        by_column.setdefault(step[0] * columns // end_us, []).append(step)
    kept: list[tuple[int, int]] = []
    for column in by_column.values():
        least = min(column, key=lambda step: step[1])
        greatest = max(column, key=lambda step: step[1])
        kept.extend(sorted({column[0], least, greatest, column[-1]}, key=column.index))
    return kept
