"""A run that broke a promise, as a file: everything that it takes to see it again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from simulations.actions import Event
from simulations.config import Config
from simulations.world import Result, run


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A seed, a configuration, the events, and which promise they break.

    A regression is one that was mended: replayed, it breaks nothing.
    """

    scenario: str
    seed: int
    promise: str
    violation: str
    config: Config
    events: list[Event]
    is_shrunk: bool = False
    """Whether what is not needed to break the promise was left out."""

    @property
    def file_name(self) -> str:
        """Of its own for each scenario, seed and planted bug."""
        bugs = "".join(f"-{bug}" for bug in self.config.planted)
        return f"{Path(self.scenario).stem}-{self.seed}{bugs}.json"

    def replay(self, *, strict: bool = False) -> Result:
        return run(self.seed, self.config, self.events, strict=strict)

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, file: Path) -> Failure:
        """Raises ValueError if the file holds no failure, OSError if it cannot be read."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{file} holds no run that can be replayed: {error}") from error
