"""The direction of imports: arrows point down, and each dependency has its importers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, SIMULATIONS = ROOT / "crdtmail", ROOT / "simulations"

LAYERS = [
    {"errors", "limits", "linux"},
    {"crdt"},
    {"store"},
    {"applying"},
    {"staging", "merging"},
    {"views"},
    {"replica"},
    {"effects"},
    {"gossip"},
    {"service", "namesakes", "journal"},
    {"node"},
    {"config"},
    {"security"},
    {"web", "client", "sources", "screen"},
    {"daemon", "importing", "verify", "checking", "apart"},
    {"backups"},
    {"upkeep"},
    {"demo", "commands"},
    {"cli"},
    {"__main__"},
]
IMPORTERS = {
    "pycrdt": {"crdt/directory.py"},
    "cbor2": {"crdt/codec.py"},
    "cryptography": {"security/certificates.py"},
    "lmdb": {"store/lmdb_store.py"},
    "sortedcontainers": {"store/memory_store.py"},
    "uvloop": {"daemon.py"},
    "rich": {"screen.py"},
    "prometheus_client": {"web/metrics.py"},
}
PURE = {"crdt", "gossip", "effects.py", "service.py", "namesakes.py", "replica.py", "applying.py", "views.py"}
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


# Simulations ----------------------------------------------------------------------------------------------

SIMULATED = sorted(SIMULATIONS.rglob("*.py"))
WHERE = {"matplotlib": "pictures/", "distributed": "workers.py", "rich": "__main__.py"}
ADAPTERS = {
    "web",
    "node",
    "client",
    "security",
    "commands",
    "sources",
    "config",
    "daemon",
    "importing",
    "verify",
    "apart",
    "linux",
    "backups",
    "upkeep",
    "demo",
    "cli",
}
INDEPENDENT = {"reference", "past", "changes", "permitted", "commands"}
"""What judges the code knows nothing of it."""


def within(path: Path) -> str:
    return str(path.relative_to(SIMULATIONS))


def run_modules() -> set[str]:
    """All that takes part in a run: what `world` and `schedule` import, and what that imports."""
    found, left = set(), {"simulations.world", "simulations.schedule"}
    while left:
        name = left.pop()
        found.add(name)
        for imported in imports(ROOT / f"{name.replace('.', '/')}.py"):
            for module in (imported, imported.rpartition(".")[0]):
                if module.startswith("simulations.") and (ROOT / f"{module.replace('.', '/')}.py").exists():
                    left |= {module} - found
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_knows_nothing_of_simulations_and_tests(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"simulations", "tests", "benchmarks"}


@pytest.mark.parametrize("path", SIMULATED, ids=within)
def test_simulations_use_the_core_and_none_of_its_adapters(path: Path) -> None:
    used = {name.split(".")[1] for name in imports(path) if name.startswith("crdtmail.")}
    assert not used & ADAPTERS - ({"linux"} if within(path) == "workers.py" else set())
    assert "screen" not in used or within(path) in ("__main__.py", "report.py")


@pytest.mark.parametrize("path", SIMULATED, ids=within)
def test_simulations_import_a_dependency_where_it_belongs(path: Path) -> None:
    for name in imports(path):
        assert within(path).startswith(WHERE.get(name.split(".")[0], "")), name


@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_the_reference_knows_nothing_of_the_code_that_it_judges(name: str) -> None:
    roots = [imported.split(".")[:2] for imported in imports(SIMULATIONS / f"{name}.py")]
    assert "crdtmail" not in [root for root, *_ in roots]
    assert {module[0] for root, *module in roots if root == "simulations"} <= INDEPENDENT


@pytest.mark.parametrize("name", sorted(run_modules()))
def test_a_run_knows_no_time_no_chance_and_no_world_but_its_own(name: str) -> None:
    assert not {each.split(".")[0] for each in imports(ROOT / f"{name.replace('.', '/')}.py")} & IMPURE


@pytest.mark.parametrize("name", sorted(run_modules()))
def test_a_run_draws_from_its_seed_alone(name: str) -> None:
    tree = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())
    drawn = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    ]
    assert set(drawn) <= {"Random"}


def test_a_run_is_made_of_what_is_tested_here() -> None:
    parts = {"world", "machine", "network", "disk", "checks", "ledger", "reference", "faults", "workload"}
    assert {f"simulations.{part}" for part in parts} <= run_modules()
