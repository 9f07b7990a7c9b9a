"""One target of `tests.fuzz` under atheris: `python -m tests.atheris_target NAME [libFuzzer's flags]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["crdtmail"]):
    from tests.fuzz import TARGETS


def main() -> None:
    name, *flags = sys.argv[1:]
    target = TARGETS[name]

    def one(data: bytes) -> None:
        target.run(data)

    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
