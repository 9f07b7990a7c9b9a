"""`python -m benchmarks [--quick] [--json FILE] [NAME ...]`"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import http_figures, snapshot_figures, store_figures
from benchmarks.report import FULL, QUICK, Figure, Sizes
from crdtmail.screen import err, out, table

FIGURES: dict[str, Callable[[Sizes], Iterator[Figure]]] = {
    "keyword-changes": http_figures.keyword_changes,
    "slow-disk": http_figures.keyword_changes_on_a_slow_disk,
    "visible": http_figures.visible_on_the_other_node,
    "merged-state": http_figures.merged_state,
    "cold-start": http_figures.cold_start,
    "bulk-flag": store_figures.bulk_flag,
    "cold-flag": store_figures.cold_flag,
    "wire": store_figures.wire,
    "equal-mailboxes": store_figures.equal_mailboxes,
    "one-change": snapshot_figures.one_change_without_a_log,
    "new-node": snapshot_figures.new_node,
    "disk": store_figures.disk,
    "toggles": store_figures.toggles,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(FIGURES)}; without: all")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all of it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        parser.error(f"there is no figure {unknown[0]}")
    sizes = QUICK if options.quick else FULL
    figures: list[Figure] = []
    for name in options.names or FIGURES:
        err.print(f"{name} ...", markup=False)
        figures += FIGURES[name](sizes)
    extent = "quick" if options.quick else "full"
    title = f"Python {platform.python_version()}, {platform.machine()}, {extent} sizes"
    shown = table("figure", "measured", "compared, in the same run", "target", "met", title=title)
    for figure in figures:
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        shown.add_row(figure.what, figure.measured, figure.compared, figure.target, met)
    out.print(shown)
    if options.json:
        options.json.write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
