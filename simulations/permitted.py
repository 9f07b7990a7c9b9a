"""What the semantics permit a client to be shown, and how a real view differs from it, in words.

Owns the comparison alone: what is permitted is worked out in `simulations.reference`. Where the semantics
leave the winner of a conflict open, every winner is permitted, but no other name than theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simulations.commands import Mailbox, View


@dataclass(frozen=True)
class Permitted:
    """A living mailbox as the semantics have it: any of these names, exactly these messages."""

    names: frozenset[str]
    messages: Mapping[str, frozenset[str]]


PermittedView = Mapping[Mailbox, Permitted]


@dataclass(frozen=True)
class Agreement:
    """True when nothing differs; otherwise says in words what does."""

    differences: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        return "\n".join(self.differences) or "no difference"


def agrees(reference_view: PermittedView, real_view: View) -> Agreement:
    """Whether the real view is one that the reference permits."""
    return Agreement(tuple(_differences(reference_view, real_view)))


def _differences(reference_view: PermittedView, real_view: View) -> Iterable[str]:
    for mailbox in sorted(reference_view.keys() - real_view.keys()):
        names = " or ".join(sorted(reference_view[mailbox].names))
        yield f"{mailbox} is missing; it should live, named {names}"
    for mailbox in sorted(real_view.keys() - reference_view.keys()):
        yield f"{mailbox} should not live, but is shown as {real_view[mailbox].name!r}"
    for mailbox in sorted(reference_view.keys() & real_view.keys()):
        yield from _name_differences(mailbox, reference_view[mailbox].names, real_view)
        expected, real = reference_view[mailbox].messages, real_view[mailbox].messages
        yield from _message_differences(mailbox, expected, real)


def _name_differences(mailbox: Mailbox, names: frozenset[str], real_view: View) -> Iterable[str]:
    name = real_view[mailbox].name
    others = {shown.name: other for other, shown in real_view.items() if other != mailbox}
    if name in others:
        yield f"{mailbox} and {others[name]} are both shown as {name!r}"
    if name in names:
        return
    bases = sorted(base for base in names if name.startswith(base))
    if not bases:
        yield f"{mailbox} is shown as {name!r} instead of {' or '.join(sorted(names))}"
    elif not any(base in others for base in bases):
        yield f"{mailbox} is shown as {name!r} although no other mailbox is shown as {' or '.join(bases)}"


def _message_differences(
    mailbox: Mailbox, expected: Mapping[str, frozenset[str]], real: Mapping[str, frozenset[str]]
) -> Iterable[str]:
    for message in sorted(expected.keys() - real.keys()):
        yield f"{message} is missing from {mailbox}"
    for message in sorted(real.keys() - expected.keys()):
        yield f"{message} should not be in {mailbox}"
    for message in sorted(expected.keys() & real.keys()):
        if expected[message] != real[message]:
            shown, wanted = (" ".join(sorted(keywords)) for keywords in (real[message], expected[message]))
            yield f"{message} in {mailbox} shows [{shown}] instead of [{wanted}]"
