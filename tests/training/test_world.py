"""Two gloo processes and one: the same losses; checkpoints that any number of processes read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from chiasm.data.collation import Conversations, Pairs
from chiasm.objectives.captioning import NextToken
from chiasm.objectives.pairs import InfoNCE, PairwiseSigmoid
from chiasm.recipes.run import Run, Source, Tiny
from chiasm.recipes.running.settings import write_run
from chiasm.training import checkpoints
from chiasm.training.config import AdamW, Constant, Cosine, Group
from chiasm.training.logs import read_log

STEPS = 20
LIMIT = (
    1e-6  # for this seed: AdamW makes steps out of gradients that are zero but for rounding, and some seeds grow on it
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        Image.new("RGB", (40, 40), (25 * number, 200 - 20 * number, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a square, number {number}")
    return folder


def recipe(family: str, data: Path) -> Run:
    objective = {"clip": InfoNCE(), "siglip": PairwiseSigmoid(), "llava": NextToken()}[family]
    return Run(
        recipe=family,
        family=family,
        model=Tiny(),
        data=(Source(name=str(data)),),
        collate=Conversations() if family == "llava" else Pairs(),
        objective=objective,
        steps=STEPS,
        batch_size=4,
        checkpoint_every=8,
        optimizer=AdamW(eps=1e-6),
        schedule=Cosine(warmup=5),
        groups=(Group(learning_rate=5e-4, weight_decay=0.1),),
        threads=1,
    )


def launch(run: Run, out: Path, processes: int, *words: str) -> list[float]:
    """Train with torchrun, or alone; the losses."""
    path = out.parent / f"{out.name}.yaml"
    write_run(run, path)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    spread = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command = [sys.executable, *(spread if processes > 1 else []), "-m", "chiasm", "train", path, "--out", out, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [float.fromhex(line["loss_hex"]) for line in read_log(out / "log.jsonl")]


@pytest.mark.parametrize(("family", "parallel"), [("clip", "ddp"), ("llava", "ddp"), ("siglip", "fsdp")])
def test_two_processes_equal_one(family: str, parallel: str, pictures: Path, tmp_path: Path) -> None:
    run = recipe(family, pictures)
    one = launch(run, tmp_path / "one", 1)
    two = launch(replace(run, parallel=parallel), tmp_path / "two", 2)
    assert len(one) == len(two) == STEPS
    # SigLIP's loss begins at 10, where neighbouring float32 numbers are 1e-6 apart themselves
    scales = [max(1.0, a) if family == "siglip" else 1.0 for a in one]
    assert max(abs(a - b) / scale for a, b, scale in zip(one, two, scales, strict=True)) <= LIMIT


def test_a_sharded_checkpoint_goes_on_alone_and_back(pictures: Path, tmp_path: Path) -> None:
    """Eight steps on two processes, FSDP; the next eight alone; the rest on two again."""
    run = replace(recipe("llava", pictures), parallel="fsdp", schedule=Constant(warmup=5))
    whole = launch(run, tmp_path / "whole", 1)
    out = tmp_path / "moved"
    launch(replace(run, steps=8), out, 2)
    first = out / "checkpoints" / "step-00000008"
    assert {path.name for path in first.iterdir()} == {
        "rank-00000.safetensors", "rank-00001.safetensors", "state.json", "manifest.json"
    }  # fmt: skip
    launch(replace(run, steps=16), out, 1, "--resume")
    moved = launch(run, out, 2, "--resume")
    assert len(moved) == STEPS and max(abs(a - b) for a, b in zip(whole, moved, strict=True)) <= LIMIT
    assert checkpoints.load(out / "checkpoints") is not None
