"""The direction of imports: arrows point down, and each dependency has its importers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "crdtmail"

LAYERS = [
    {"errors", "limits"},
    {"crdt"},
    {"store"},
    {"applying"},
    {"views"},
    {"replica"},
    {"effects"},
    {"gossip"},
    {"service"},
    {"node"},
    {"web", "client", "sources", "config", "screen"},
    {"daemon", "importing", "verify"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
IMPORTERS = {
    "pycrdt": {"crdt/directory.py"},
    "cbor2": {"crdt/codec.py"},
    "lmdb": {"store/lmdb_store.py"},
    "sortedcontainers": {"store/memory_store.py"},
    "uvloop": {"daemon.py"},
    "rich": {"screen.py"},
}
PURE = {"crdt", "gossip", "effects.py", "service.py", "replica.py", "applying.py", "views.py"}
IMPURE = {
    "asyncio",
    "threading",
    "time",
    "socket",
    "os",
    "secrets",
    "uuid",
    "pathlib",
    "subprocess",
    "aiohttp",
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def layer(module: str) -> int:
    return next(height for height, names in enumerate(LAYERS) if module in names)


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_nothing_from_above(path: Path) -> None:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "crdtmail" and len(parts) > 1 and parts[1] != "__version__":
            known = {each for names in LAYERS for each in names}
            if parts[1] in known:
                assert layer(parts[1]) <= layer(mine), f"{mine} climbs to {parts[1]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_dependency_is_imported_where_it_belongs(path: Path) -> None:
    where = str(path.relative_to(PACKAGE))
    for name in imports(path):
        root = name.split(".")[0]
        assert where in IMPORTERS.get(root, {where}), f"{root} is imported by {IMPORTERS[root]} alone"
        if root == "aiohttp":
            assert where.startswith("web/"), "aiohttp lives under web/"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_knows_no_time_no_chance_and_no_world(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in PURE:
        assert not {name.split(".")[0] for name in imports(path)} & IMPURE
