"""The same said at most once a minute: whoever causes it at will must not fill the disk with the log."""

from __future__ import annotations

from collections.abc import Callable

_EVERY_S = 60.0


class Seldom:
    """`now` gives seconds on a clock that nobody sets."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._again_at: dict[str, float] = {}

    def is_due(self, what: str) -> bool:
        """Whether it may be said now; if so, it is not for a minute.  There are few things to be said."""
        now = self._now()
        if now < self._again_at.get(what, now):
            return False
        self._again_at[what] = now + _EVERY_S
        return True
