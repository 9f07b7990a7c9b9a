"""What was answered to clients, and must be true of every node ever after."""

from __future__ import annotations


class Ledger:
    """What was answered.

    Whoever tries to take something away says so first: until it is answered, both outcomes are right.
    """

    def __init__(self) -> None:
        self._must: dict[tuple[str, str], dict[str, bool]] = {}
        self._flags: dict[str, set[str]] = {}
        self._names: dict[str, dict[str, bool]] = {}
        self.answers = 0

    def present(self, account: str, box: str, *ids: str) -> None:
        self._must.setdefault((account, box), {}).update(dict.fromkeys(ids, True))
        self.answers += 1

    def absent(self, account: str, box: str, *ids: str) -> None:
        self._must.setdefault((account, box), {}).update(dict.fromkeys(ids, False))

    def uncertain(self, account: str, box: str, *ids: str) -> None:
        for id in ids:
            self._must.get((account, box), {}).pop(id, None)

    def flagged(self, account: str, *ids: str) -> None:
        self._flags.setdefault(account, set()).update(ids)
        self.answers += 1

    def named(self, account: str, name: str, there: bool | None) -> None:
        """A mailbox is there, is not, or (None) may be either."""
        if there is None:
            self._names.get(account, {}).pop(name, None)
        else:
            self._names.setdefault(account, {})[name] = there
            self.answers += 1

    def boxes(self, account: str) -> set[str]:
        """The mailboxes of which something was answered."""
        return {box for of, box in self._must if of == account}

    def forget(self, account: str, box: str) -> None:
        """The mailbox is about to be deleted."""
        gone = self._must.pop((account, box), {})
        self._flags.get(account, set()).difference_update(gone)

    def check(self, account: str, boxes: dict[str, dict[str, set[str]]], names: set[str]) -> None:
        """Hold what a node shows against all that was answered in the account."""
        for (of, box), must in list(self._must.items()):
            if of == account:
                lost = [id for id, there in list(must.items()) if there and id not in boxes[box]]
                back = [id for id, there in list(must.items()) if not there and id in boxes[box]]
                assert not lost, f"answered additions to {box} are lost: {lost[:5]}"
                assert not back, f"what was answered as taken out of {box} is back: {back[:5]}"
        shown = {id: keywords for content in boxes.values() for id, keywords in content.items()}
        unflagged = [
            id for id in self._flags.get(account, ()) if "$flagged" not in shown.get(id, {"$flagged"})
        ]
        assert not unflagged, f"answered flags are lost: {unflagged[:5]}"
        for name, there in self._names.get(account, {}).items():
            assert (name in names) is there, f"mailbox {name} is {'lost' if there else 'back'}"
