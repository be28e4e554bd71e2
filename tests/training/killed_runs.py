"""Runs that are killed, in processes of their own; prints what came out as one JSON document.

    python killed_runs.py steps FAMILY DATA WORK KILLS     SIGKILL at random moments of random steps
    python killed_runs.py calls WORK                       SIGKILL, or a full disk, at every durable call of a save

torch is imported once; every run is a fork. No test of its own: `test_resume.py` starts it.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from chiasm.core.errors import ChiasmError
from chiasm.data.collation import Conversations, Pairs
from chiasm.objectives.captioning import NextToken
from chiasm.objectives.pairs import InfoNCE
from chiasm.recipes.run import Run, Source, Tiny
from chiasm.recipes.running.carry import Manner, carry_out
from chiasm.training import checkpoints
from chiasm.training.config import Cosine, Group, LoopConfig
from chiasm.training.feed import Numbered
from chiasm.training.logs import Log, Report, read_log
from chiasm.training.loop import train

DURABLE = (
    "write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2",
    "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir",
)  # fmt: skip
FULL = ("write", "pwrite64", "writev", "pwritev", "fsync", "mkdir", "mkdirat")  # calls that a full disk can fail
FAILED = 7


def forked(call: Callable[[], None]) -> int:
    """Run something in a fork; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        call()
    except ChiasmError as error:
        print(error, file=sys.stderr)
        code = FAILED
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """The exit status: negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(a: Path, b: Path) -> dict[str, object]:
    """Compare two runs' loss logs and newest checkpoints."""
    left, right = ([(line["step"], line["loss_hex"]) for line in read_log(path / "loss.jsonl")] for path in (a, b))
    tensors = []
    for path in (a, b):
        found = checkpoints.load(path / "run" / "checkpoints")
        assert found is not None
        tensors.append({n: t for n, t in checkpoints.read_tensors(found).items() if not n.startswith("rng/")})
    names = set(tensors[0]) | set(tensors[1])
    equal = all(n in tensors[0] and n in tensors[1] and torch.equal(tensors[0][n], tensors[1][n]) for n in names)
    return {"losses": left == right, "tensors": equal, "steps": len(left), "compared": len(names)}


# Random steps of a real family


def recipe(family: str, data: str) -> Run:
    dual = family in ("clip", "siglip")
    return Run(
        recipe=family,
        family=family,
        model=Tiny(),
        data=(Source(name=data),),
        collate=Pairs() if dual else Conversations(),
        objective=InfoNCE() if dual else NextToken(),
        steps=60,
        batch_size=4,
        checkpoint_every=4,
        schedule=Cosine(warmup=5),
        groups=(Group(learning_rate=1e-3, weight_decay=0.1),),
        ema=0.9 if dual else None,
        accumulate=1 if dual else 2,
        threads=1,
    )


def run_family(run: Run, work: Path) -> None:
    manner = Manner(resume=True, loss_log=work / "loss.jsonl", show=False, device="cpu")
    carry_out(run, work / "run", manner, lambda line: None)


def steps(family: str, data: str, work: Path, kills: int) -> dict[str, object]:
    """One run that nobody disturbs, one that is killed again and again at random moments."""
    run = recipe(family, data)
    run_family(run, work / "whole")  # in this process: what is imported late is imported before the forks
    rng, killed = random.SystemRandom(), []
    log = work / "cut" / "loss.jsonl"
    while len(killed) < kills:
        before = _lines(log)
        child = forked(lambda: run_family(run, work / "cut"))
        # mostly after a few steps, so that there is something left to kill; sometimes before the first
        wanted = before + rng.choice((0, 1, 2, 3, 5))
        deadline = time.monotonic() + 60
        while _lines(log) < wanted and time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        if ended(child) != -signal.SIGKILL:
            break
        killed.append(_lines(log))
        if killed[-1] >= run.steps - 2:  # it's at its end: begin again, so that every kill is one
            shutil.rmtree(work / "cut")
    assert ended(forked(lambda: run_family(run, work / "cut"))) == 0
    return {"killed": killed, **same(work / "whole", work / "cut")}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Every durable system call of one save


class Wait:
    """Says over a pipe that step `at` is done, and waits for an answer: the save that follows is the one watched."""

    def __init__(self, at: int, say: int, hear: int) -> None:
        self.at, self.say, self.hear = at, say, hear

    def start(self, step: int, total: int) -> None:
        pass

    def step(self, report: Report) -> None:
        if report.step == self.at:
            os.write(self.say, b".")
            os.read(self.hear, 1)

    def stop(self) -> None:
        pass


def small_run(work: Path, watchers: tuple[object, ...] = ()) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 1))

    def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(6, 8, generator=generator)
        return x, x.sum(1, keepdim=True)

    def error(module: nn.Module, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.mse_loss(module(pair[0]), pair[1])}

    config = LoopConfig(steps=8, groups=(Group(learning_rate=0.01),), checkpoint_every=2, ema=0.9)
    log = Log(work / "loss.jsonl", exact=True)
    train(net, error, Numbered(batch), config, work / "run", watchers=(log, *watchers))  # type: ignore[arg-type]


def watched(work: Path, words: list[str], output: Path) -> int:
    """Go on with the run in `work` under strace from the end of step 6 on; the run's exit status."""
    told, say = os.pipe()
    hear, answer = os.pipe()

    def go() -> None:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 & 2**64 - 1), 0, 0, 0)  # anybody may trace this process
        small_run(work, (Wait(6, say, hear),))

    child = forked(go)
    os.close(say)
    os.close(hear)
    assert os.read(told, 1) == b"."
    command = ["strace", "-f", "-qq", "-o", str(output), "-e", f"trace={','.join(DURABLE)}", *words, "-p", str(child)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        _wait_until_traced(child, tracer)
        os.write(answer, b".")
        status = ended(child)
        tracer.wait(30)
    os.close(told)
    os.close(answer)
    return status


def _wait_until_traced(child: int, tracer: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = Path(f"/proc/{child}/status").read_text()
        if not re.search(r"^TracerPid:\s*0$", status, re.MULTILINE):
            time.sleep(0.01)  # strace attaches first and sets its filters right after
            return
        if tracer.poll() is not None:
            raise RuntimeError(
                f"strace ended with {tracer.returncode}: {tracer.stderr.read() if tracer.stderr else ''}"
            )
        time.sleep(0.001)
    raise RuntimeError("strace never attached")


def calls(work: Path) -> dict[str, object]:
    """Kill, then fill the disk, at every durable call between the end of step 6 and the end of the run."""
    small_run(work / "whole")  # in this process: what torch imports late is imported before the forks
    base = work / "base"
    _stop_at(base, 5)  # checkpoints of steps 2 and 4 are there, the save after step 6 is watched
    shutil.copytree(base, work / "count")
    assert watched(work / "count", [], work / "trace.txt") == 0
    names = [match[1] for match in re.finditer(r"^\d+\s+(\w+)\(", (work / "trace.txt").read_text(), re.MULTILINE)]
    first = names[: _save_ends(work / "trace.txt")]
    seen, cases = Counter[str](), []
    for name in first:
        seen[name] += 1
        cases.append((name, seen[name], "signal=KILL"))
        if name in FULL:
            cases.append((name, seen[name], "error=ENOSPC"))
    wrong, after = [], Counter[str]()
    for number, (name, nth, fault) in enumerate(cases):
        here = work / f"case-{number}"
        shutil.copytree(base, here)
        status = watched(here, ["-e", f"inject={name}:{fault}:when={nth}"], here / "trace.txt")
        expected = -signal.SIGKILL if "KILL" in fault else None
        valid = checkpoints.load(here / "run" / "checkpoints")
        if valid is not None:
            after[valid.name] += 1
        again = ended(forked(lambda here=here: small_run(here)))  # type: ignore[misc]
        outcome = same(work / "whole", here) if again == 0 else {}
        good = valid is not None and outcome.get("losses") and outcome.get("tensors")
        if not good or (expected is not None and status != expected):
            wrong.append([name, nth, fault, status, str(valid), again, outcome])
        else:
            shutil.rmtree(here)
    return {"cases": len(cases), "calls": dict(Counter(first)), "wrong": wrong, "valid": dict(after)}


def _save_ends(trace: Path) -> int:
    """How many calls the save takes: up to the removal of the oldest checkpoint's folder."""
    lines = [line for line in trace.read_text().splitlines() if re.match(r"\d+\s+\w+\(", line)]
    removed = [number for number, line in enumerate(lines) if re.search(r"(rmdir|unlinkat)\(.*step-0*2\b", line)]
    assert removed, "the save removed nothing"
    return removed[-1] + 1


def _stop_at(work: Path, step: int) -> None:
    class Stop:
        def start(self, begun: int, total: int) -> None:
            pass

        def step(self, report: Report) -> None:
            if report.step == step:
                os.kill(os.getpid(), signal.SIGKILL)

        def stop(self) -> None:
            pass

    assert ended(forked(lambda: small_run(work, (Stop(),)))) == -signal.SIGKILL


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "steps":
        print(json.dumps(steps(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))))
    else:
        print(json.dumps(calls(Path(sys.argv[2]))))
