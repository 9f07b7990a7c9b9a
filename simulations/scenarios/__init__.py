"""The scenarios: one small file each.  The first line of a file's docstring says what it is about.

A file defines `CONFIG`, or `configure(seed)` where the configuration itself depends on the seed.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import msgspec

from simulations import actions
from simulations.config import Config
from simulations.story import checked

ACTIONS = {action.__name__ for action in actions.AnyAction.__args__}


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
    """The scenario of that name, or in the file of that path (`mine.py`).

    Raises ValueError if there is none, or if its file defines none.
    """
    if name.endswith(".py"):
        module = _from_file(Path(name))
    elif name in names():
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    elif Path(f"{name}.py").exists():
        raise ValueError(f"there is no scenario {name!r}; for the file say {name}.py")
    else:
        raise ValueError(f"there is no scenario {name!r}; there are {', '.join(names())}")
    summary = (module.__doc__ or "").strip().split("\n")[0]
    if hasattr(module, "configure"):
        configure: Callable[[int], Config] = module.configure
        return Scenario(Path(name).stem, summary, lambda seed: checked(configure(seed)))
    if not isinstance(getattr(module, "CONFIG", None), Config):
        raise ValueError(f"{module.__file__} defines no CONFIG")
    config = checked(module.CONFIG)
    return Scenario(Path(name).stem, summary, lambda seed: config)


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ValueError(f"there is no scenario file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, TypeError, AttributeError, msgspec.MsgspecError) as error:
        raise ValueError(f"{path} is no scenario: {error}{_where(path, error)}") from error
    return module


def _where(path: Path, error: Exception) -> str:
    """The line of the file in which it went wrong, and the fields of what is made there."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    if not lines or lines[-1] is None:
        return ""
    words = re.findall(r"\w+", path.read_text().splitlines()[lines[-1] - 1])
    fields = [actions.signature(vars(actions)[word]) for word in words if word in ACTIONS]
    if not fields and "Config" in words:
        fields = [f"Config has {', '.join(Config.__struct_fields__)}"]
    return f" (line {lines[-1]})" + "".join(f"; {each}" for each in fields if isinstance(error, TypeError))
