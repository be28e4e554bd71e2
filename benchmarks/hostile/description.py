"""Schemathesis over the published description: no answer that it doesn't promise, and none above 499."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostile.server import Served

REPOSITORY = Path(__file__).parents[2]
SETTINGS = Path(__file__).with_name("schemathesis.toml")
JUDGING_INPUT = "positive_data_acceptance,negative_data_rejection"


def schema(server: Served, scale: float, paths: Sequence[str] = ()) -> dict[str, Any]:
    """Every operation by itself in all phases, as generated and with served models and real pictures; then chains of
    operations. No check is skipped as generated; what the hook mends is no longer what was generated, so only the
    answers are judged then. With `paths`, only these operations, and no chains."""
    examples = max(5, round(500 * scale))
    _, document, _ = server.ask("/openapi.json")
    parts: dict[str, Any] = {}
    for hooked in (False, True):
        for path in paths or document["paths"]:
            if not hooked or "post" in document["paths"][path]:
                name = f"{path} with served models" if hooked else path
                parts[name] = tried(server, examples, hooked, "--include-path", path)
                print(json.dumps({name: parts[name]}), file=sys.stderr, flush=True)
    if not paths:
        parts["chains"] = tried(server, examples, False, "--phases", "stateful")
    cases = sum(part["cases"] for part in parts.values())
    failures = {name: part["failures"] for name, part in parts.items() if part["failures"]}
    seconds = {name: part["seconds"] for name, part in parts.items()}
    return {"examples": examples, "cases": cases, "operations": seconds, "failures": failures, "ok": not failures}


def tried(server: Served, examples: int, hooked: bool, *words: str) -> dict[str, Any]:
    """One run: cases, seconds, and what failed."""
    hooks = {"SCHEMATHESIS_HOOKS": "tests.serving.fuzz_hooks"} if hooked else {}
    without = ["--exclude-checks", JUDGING_INPUT] if hooked else []
    start = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS), "run",
            f"{server.url}/openapi.json", "-n", str(examples),
            "--continue-on-failure", "--no-shrink", "--no-color", *without, *words,
        ],
        cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", **hooks},
    )  # fmt: skip
    failures = re.findall(r"^- (.*)", done.stdout, re.MULTILINE)
    if done.returncode and not failures:
        failures = [done.stdout[-1000:] + done.stderr[-500:]]
    if failures:
        print(done.stdout[-6000:], file=sys.stderr, flush=True)
    cases = re.search(r"(\d+) generated", done.stdout)
    return {
        "cases": int(cases[1]) if cases else 0,
        "seconds": round(time.monotonic() - start, 1),
        "failures": sorted(set(failures)),
    }
