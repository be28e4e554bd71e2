"""`make soak`: a running `chiasm serve` under hostile pictures, addresses, strings and loads; one line a figure.

    python benchmarks/soak.py [STAGE ...] [--minutes 30] [--pause 0] [--scale 1.0] [--paths PATH …] [--out FILE]

Stages: pictures, addresses, strings, schema, overload, disconnects, slow, poison, kill, soak; all of them by default.
They share one server on the loopback device, with random miniatures; `--scale` shortens counts and times.
Every line is a JSON object with ``ok``; the exit code is 1 when one isn't.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from hostile import attacks, description, loads
from hostile.server import Served, indexed, miniatures

STAGES: dict[str, Callable[[Served, float], dict[str, Any]]] = {
    "pictures": attacks.pictures,
    "addresses": attacks.addresses,
    "strings": attacks.strings,
    "schema": description.schema,
    "overload": loads.overload,
    "disconnects": loads.disconnects,
    "slow": loads.slow,
    "poison": loads.poison,
    "kill": loads.kill,
}


@contextmanager
def served(folders: dict[str, Path], place: Path) -> Iterator[Served]:
    """A server, ended as an operator would."""
    server = Served(folders, place, *indexed(folders["clip"], place))
    try:
        yield server
    finally:
        server.close()


def main() -> int:
    """Run the stages that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join([*STAGES, "soak"]))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a client of the soak rests")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--paths", nargs="+", default=(), help="operations of the stage schema; by default all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as place, served(miniatures(Path(place)), Path(place)) as server:
        for name in given.stages or [*STAGES, "soak"]:
            good &= _stage(server, name, given)
    return 0 if good else 1


def _stage(server: Served, name: str, given: argparse.Namespace) -> bool:
    start = time.monotonic()
    if name == "soak":
        figures = loads.soak(server, given.minutes, given.pause)
    elif name == "schema":
        figures = description.schema(server, given.scale, given.paths)
    else:
        figures = STAGES[name](server, given.scale)
    leaks = server.leaks()
    line = {"stage": name, **figures, **leaks, "seconds": round(time.monotonic() - start, 1)}
    line["ok"] = bool(line["ok"]) and not leaks
    print(json.dumps(line), flush=True)
    if given.out is not None:
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return line["ok"]


if __name__ == "__main__":
    sys.exit(main())
