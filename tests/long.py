"""The long forms of the tests with real processes, networks and disks: `python -m tests.long COMMAND`.

Each does for minutes what its test does for seconds, from a seed that it prints.  It ends with exit code 0
and a count of what it did, or with a traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path


def main() -> None:
    options = _parser().parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder  # what processes that are started leave goes with it
        command: Callable[[argparse.Namespace, Path], object] = options.command
        print(command(options, Path(folder)))
    print(f"{time.monotonic() - begun:.0f} s")


def _say(text: str) -> None:
    print(text, flush=True)


def _kills(options: argparse.Namespace, folder: Path) -> object:
    from tests import kills

    phases = options.phase or list(kills.PHASES)
    it = kills.run(folder, options.kills, options.seed, phases=phases, say=_say)
    return "\n".join(
        f"{phase}: {it.hits[phase]} hits of {it.kills[phase]} kills: "
        + ", ".join(f"{count} {where}" for (of, where), count in it.moments.items() if of == phase)
        for phase in phases
    )


def _power(options: argparse.Namespace, folder: Path) -> object:
    from tests import power

    records = power.record(folder, options.writes)
    incomplete = power.cut(folder, records, options.cuts, options.seed, _say)
    return f"{options.cuts} cuts in {len(records)} records, {incomplete} with something not yet synced"


def _network(options: argparse.Namespace, folder: Path) -> object:
    """One fault after the other; after each, every node has every message that was answered anywhere."""
    from tests import endings
    from tests.namespaces import why_not
    from tests.test_network import NAMES, assert_all_have, deliver, three_nodes

    if reason := why_not():
        raise SystemExit(reason)
    chance = random.Random(options.seed)
    done: Counter[str] = Counter()
    wanted: set[str] = set()
    with three_nodes(folder) as it:
        for number in range(options.faults):
            one, other = chance.sample(NAMES, 2)
            faults: dict[str, Callable[[str], AbstractContextManager[None]]] = {
                "isolated": it.isolated,
                "blocked": partial(it.blocked, target=other),
                "stopped": it.stopped,
            }
            fault = chance.choice(list(faults))
            with faults[fault](one):
                for name in NAMES:
                    if (fault, name) != ("stopped", one):
                        assert it.ask(name, deliver(f"{number}-{name}"))
                        wanted.add(f"{number}-{name}")
                time.sleep(chance.uniform(0, 15))  # shorter and longer than it takes to notice
            assert_all_have(it, *wanted)
            done[fault] += 1
            if (number + 1) % 10 == 0:
                _say(f"{number + 1} faults")
        endings.end_well(lambda: it.verify(NAMES[0]), it.stop, [folder / name for name in NAMES])
    return dict(done)


def _api(options: argparse.Namespace, folder: Path) -> object:
    from tests import openapi
    from tests.nodes import node_process

    with node_process(folder / "node") as node:
        openapi.run_schemathesis(node, folder, examples=options.examples, seed=options.seed)
    return "no answer but what docs/openapi.json allows"


def _fuzz(options: argparse.Namespace, _: Path) -> object:
    from tests import fuzz

    return fuzz.campaign(options.inputs, options.seed, options.workers, _say)


def _atheris(options: argparse.Namespace, folder: Path) -> object:
    """Inputs that atheris (libFuzzer) finds by the paths that they take, for each target in a process."""
    from tests.fuzz import TARGETS

    for number, (name, target) in enumerate(TARGETS.items()):
        if options.only not in (None, name):
            continue
        corpus = folder / str(number)
        corpus.mkdir()
        for place, seed in enumerate(target.seeds):
            (corpus / f"seed-{place}").write_bytes(seed)
        flags = [
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed % 2**31 + 1}",
            "-print_final_stats=1",
        ]
        command = [sys.executable, "-m", "tests.atheris_target", name, *flags, str(corpus)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            found = [file.read_bytes().hex() for file in corpus.glob("crash-*")]
            raise AssertionError(f"{name}: input {found}\n{done.stdout[-5000:]}\n{done.stderr[-2000:]}")
        units = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        _say(f"{name}: {' '.join(units)}")
    return "every input was taken or refused"


def _requests(options: argparse.Namespace, folder: Path) -> object:
    from tests import fuzz_http

    return asyncio.run(fuzz_http.send_some(folder, options.seed, options.requests))


def _soak(options: argparse.Namespace, folder: Path) -> object:
    from tests import soak

    return soak.run(
        folder,
        seconds=60 * options.minutes,
        rate=options.rate,
        seed=options.seed,
        limits=soak.Limits(),
        say=_say,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.long", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dir", help="where the nodes keep their data: the disk that is tested")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    kills = commands.add_parser("kills", help="kill -9 under load, and in the middle of all that is rare")
    kills.add_argument("--kills", type=int, default=500)
    kills.add_argument("--phase", action="append", help="only this one; may be given often")
    kills.set_defaults(command=_kills)

    power = commands.add_parser("power", help="power loss")
    power.add_argument("--cuts", type=int, default=1000)
    power.add_argument("--writes", type=int, default=600)
    power.set_defaults(command=_power)

    network = commands.add_parser("network", help="cuts, one-way cuts and pauses in network namespaces")
    network.add_argument("--faults", type=int, default=100)
    network.set_defaults(command=_network)

    api = commands.add_parser("api", help="requests that schemathesis makes from docs/openapi.json")
    api.add_argument("--examples", type=int, default=500, help="for each operation")
    api.set_defaults(command=_api)

    fuzz = commands.add_parser("fuzz", help="inputs that are almost right, for everything that reads")
    fuzz.add_argument("--inputs", type=int, default=1_000_000)
    fuzz.add_argument("--workers", type=int, default=2)
    fuzz.set_defaults(command=_fuzz)

    atheris = commands.add_parser("atheris", help="inputs that lead to new paths (the extra `fuzz`)")
    atheris.add_argument("--seconds", type=int, default=60, help="for each target")
    atheris.add_argument("--only", help="one target")
    atheris.set_defaults(command=_atheris)

    requests = commands.add_parser("requests", help="requests that are almost right, to a node")
    requests.add_argument("--requests", type=int, default=100_000)
    requests.set_defaults(command=_requests)

    soak = commands.add_parser("soak", help="steady load and faults; memory, files, log and disk stay level")
    soak.add_argument("--minutes", type=float, default=30)
    soak.add_argument("--rate", type=float, default=50, help="changes a second")
    soak.set_defaults(command=_soak)
    return parser


if __name__ == "__main__":
    main()
