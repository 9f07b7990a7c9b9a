"""The scenarios: one small file each.  The first line of a file's docstring says what it is about.

A file defines `CONFIG`, or `configure(seed)` where the configuration itself depends on the seed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from simulations.config import Config


@dataclass(frozen=True)
class Scenario:
    """What the name of a scenario stands for."""

    name: str
    summary: str
    configure: Callable[[int], Config]
    """The configuration for a seed."""


def names() -> list[str]:
    """The scenarios that there are, as the command line spells them."""
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__))


def load(name: str) -> Scenario:
    """The scenario of that name.  Raises ValueError if there is none, or if its file defines none."""
    if name not in names():
        raise ValueError(f"there is no scenario {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    summary = (module.__doc__ or "").strip().split("\n")[0]
    if hasattr(module, "configure"):
        return Scenario(name, summary, module.configure)
    if not isinstance(getattr(module, "CONFIG", None), Config):
        raise ValueError(f"{module.__file__} defines no CONFIG")
    config: Config = module.CONFIG
    return Scenario(name, summary, lambda seed: config)
