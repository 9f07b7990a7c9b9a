"""A broken promise."""

from __future__ import annotations

import re
from collections.abc import Mapping

MOST_WORDS = 400
"""Letters of what was seen.  More than a person reads is better looked up in the trace."""

_DOT = re.compile(r"Dot\(replica=([^,]+), seq=(\d+)\)")
_FIRST = re.compile(r"(?<=\w)#0\b")
"""Only a mailbox that is not the first of its name needs a number."""
_CLOCK = re.compile(r"Clock\(\{(.*?)\}\)")


class Violation(AssertionError):
    """`promise` names it in a few words, `seen` says what was seen instead."""

    def __init__(self, promise: str, seen: str) -> None:
        super().__init__(f"{promise}: {seen}")
        self.promise = promise
        self.seen = seen


def expect(holds: bool, promise: str, *seen: object) -> None:
    """Raise `Violation` unless it holds.

    What was `seen` is put into words only then: it is values, or a sentence with a `{}` for each of the
    values that follow it.
    """
    if not holds:
        sentence, *values = map(str, seen)
        fits = values and sentence.count("{}") == len(values)
        raise Violation(promise, sentence.format(*values) if fits else ": ".join([sentence, *values]))


def in_words(text: str, names: Mapping[int, str], mailboxes: Mapping[str, str] | None = None) -> str:
    """The text with nodes and mailboxes by name instead of their ids, and clocks without their code."""
    for digits, mailbox in (mailboxes or {}).items():
        text = text.replace(digits, mailbox)
    for id, name in names.items():
        text = text.replace(f"{id:016x}", name).replace(f"{id:x}", name).replace(str(id), name)
    text = _DOT.sub(r"change \2 of \1", text)
    text = _CLOCK.sub(lambda found: f"[{found[1].replace(':', '')}]" if found[1] else "[nothing]", text)
    text = _FIRST.sub("", text)
    return text if len(text) <= MOST_WORDS else f"{text[:MOST_WORDS]} …"
