"""A broken promise."""

from __future__ import annotations


class Violation(AssertionError):
    """`promise` names it in a few words, `seen` says what was seen instead."""

    def __init__(self, promise: str, seen: str) -> None:
        super().__init__(f"{promise}: {seen}")
        self.promise = promise
        self.seen = seen


def expect(holds: bool, promise: str, *seen: object) -> None:
    """Raise `Violation` unless it holds; what was `seen` is put into words only then."""
    if not holds:
        raise Violation(promise, ": ".join(map(str, seen)))
