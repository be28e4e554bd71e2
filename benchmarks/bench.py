"""`make bench`: every benchmark but training, shortened, one after another; each part's time is printed.

    python benchmarks/bench.py [PART ...] [--threads 1] [--out build/bench]

Parts: speed, inference, drawing, towers, quantized, mixed, questions, start; all of them by default. `inference` and
`drawing` leave `performance.json` and `performance.svg` in `--out`. The exit code is 1 when a part fails; the others
are run all the same. Long runs, for figures to be published, are the commands of docs/performance.md.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def parts(out: Path, threads: int) -> dict[str, list[str]]:
    """The words of each part's command."""
    record, picture = str(out / "performance.json"), str(out / "performance.svg")
    one = ["--threads", str(threads)]
    return {
        "speed": ["speed.py", "--runs", "3", *one],
        "inference": ["inference.py", "--runs", "1", "--record", record, *one],
        "drawing": ["drawing.py", record, picture],
        "towers": ["towers.py", "--runs", "1", *one],
        "quantized": ["quantized.py", "--count", "5", "--ways", "int8,int4", *one],
        "mixed": ["serving.py", "--only", "mixed", "--requests", "12", *one],
        "questions": ["serving.py", "--only", "questions", *one],
    }


def start_seconds(model: str = "nano") -> tuple[int, float]:
    """Start `chiasm serve`: its exit code, and seconds until requests are answered."""
    with tempfile.TemporaryDirectory() as place:
        ready, start = Path(place) / "ready", time.monotonic()
        words = ["-m", "chiasm", "serve", model, "--port", "0", "--ready-file", str(ready)]
        process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not ready.exists() and process.poll() is None:
            time.sleep(0.02)
        seconds = time.monotonic() - start
        process.terminate()
        return process.wait(60), seconds


def run(name: str, words: list[str]) -> int:
    """Run one part in a process of its own."""
    print(f"--- {name}: {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, str(HERE / words[0]), *words[1:]]).returncode


def main() -> int:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    known = parts(given.out, given.threads)
    chosen = given.parts or [*known, "start"]
    if unknown := set(chosen) - {*known, "start"}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    failed, told = [], []
    for name in chosen:
        begun, busy = time.monotonic(), _busy()
        if name == "start":
            code, seconds = start_seconds()
            print(f"--- start: chiasm serve nano answers after {seconds:.1f} s", flush=True)
        else:
            code = run(name, known[name])
        failed += [name] * bool(code)
        told.append(f"{name:12}{time.monotonic() - begun:8.0f} s{_busy() - busy:8.0f} s of processor time")
    print("\n".join(told))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def _busy() -> float:
    """Seconds of processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
