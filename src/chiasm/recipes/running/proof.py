"""`--prove-resume`: a run is killed at a random step and goes on, another isn't killed; both must be the same.

Both are real runs in processes of their own, killed with SIGKILL, so that nothing can be tidied up.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from chiasm.core.errors import ConfigError
from chiasm.recipes.run import Run
from chiasm.recipes.running.settings import write_run
from chiasm.recipes.running.task import Tell
from chiasm.training.checkpoints import load, read_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What came out.

    Attributes:
        same: whether the losses of all steps and the final weights are identical.
        steps: of both runs.
        killed_after: the step after which the one was killed.
        resumed_after: the step that it went on from.
        losses, tensors: how many were compared; `different`: how many of both differ.
        verdict: a sentence.
    """

    same: bool
    steps: int
    killed_after: int
    resumed_after: int
    losses: int
    tensors: int
    different: int
    verdict: str


def prove(run: Run, out: Path, tell: Tell, *, kill_after: int | None = None) -> Proof:
    """Run the proof.

    Args:
        run: what is proved.
        out: a new folder; holds both runs afterwards.
        tell: takes lines for people.
        kill_after: the step to kill after; None = a random one.

    Raises:
        ConfigError: the folder isn't empty, the run is too short, or one of the runs fails by itself.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError("folder_not_empty", f"{out} is there already and not empty", hint="another --out folder")
    if run.steps < 2:
        raise ConfigError("setting_range", f"steps is {run.steps}, a proof needs at least 2", hint="--set steps=20")
    out.mkdir(parents=True, exist_ok=True)
    recipe = out / "recipe.yaml"
    write_run(run, recipe)
    kill_after = kill_after or random.SystemRandom().randint(1, run.steps - 1)
    tell(f"1 of 3: the run as it is, {run.steps} steps")
    _finish(recipe, out / "whole", resume=False)
    tell(f"2 of 3: the same, killed after step {kill_after}")
    _kill(recipe, out / "cut", kill_after)
    seen = len(_losses(out / "cut"))
    found = load(out / "cut" / "checkpoints")
    resumed = int(found.name.rpartition("-")[2]) if found else 0
    tell(f"3 of 3: killed with {seen} steps logged; going on after step {resumed}")
    _finish(recipe, out / "cut", resume=True)
    return _compare(run, out, seen, resumed)


def _compare(run: Run, out: Path, killed: int, resumed: int) -> Proof:
    a, b = _losses(out / "whole"), _losses(out / "cut")
    wrong = sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
    whole, cut = (_tensors(out / name) for name in ("whole", "cut"))
    bad = [n for n in whole.keys() | cut.keys() if n not in whole or n not in cut or not _equal(whole[n], cut[n])]
    what = f"killed after step {killed}, gone on after step {resumed}: {len(a)} losses and {len(whole)} tensors"
    same = not wrong and not bad
    first = f"; first {sorted(bad)[0]}" if bad else ""
    end = "identical to the uninterrupted run" if same else f"{wrong} losses and {len(bad)} tensors differ{first}"
    return Proof(
        same=same, steps=run.steps, killed_after=killed, resumed_after=resumed, losses=len(a), tensors=len(whole),
        different=wrong + len(bad), verdict=f"{what} compared; {end}",
    )  # fmt: skip


def _command(recipe: Path, out: Path, resume: bool) -> list[str]:
    words = [sys.executable, "-m", "chiasm", "train", recipe, "--out", out, "--loss-log", out.with_suffix(".jsonl")]
    return [*map(str, words), *(["--resume"] if resume else [])]


def _finish(recipe: Path, out: Path, resume: bool) -> None:
    done = subprocess.run(_command(recipe, out, resume), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise ConfigError("proof_failed", f"a run of the proof ended with code {done.returncode}: {last}")


def _kill(recipe: Path, out: Path, after: int) -> None:
    with subprocess.Popen(
        _command(recipe, out, False), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and len(_losses(out)) < after:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        elif process.returncode:
            last = (process.stderr.read().strip().splitlines() or ["no words"])[-1] if process.stderr else ""
            raise ConfigError("proof_failed", f"a run of the proof ended with code {process.returncode}: {last}")


def _losses(out: Path) -> list[tuple[int, str]]:
    path = out.with_suffix(".jsonl")
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]  # the last line may be in the making
    return [(line["step"], line["loss_hex"]) for line in map(json.loads, whole.splitlines()) if line]


def _tensors(out: Path) -> dict[str, torch.Tensor]:
    found = load(out / "checkpoints")
    return {name: t for name, t in read_tensors(found).items() if not name.startswith("rng/")} if found else {}


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
