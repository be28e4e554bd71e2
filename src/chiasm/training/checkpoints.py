"""Checkpoints of a run: there whole or not at all, proved by hashes, and nothing in them needs unpickling.

`checkpoints/step-00000100/` holds `rank-00000.safetensors` of every process (each stores its share of the *whole*
tensors, so any number of processes can read them), `state.json` and `manifest.json` (bytes and SHA-256 of each file).
The folder is written under another name, every file synced, then renamed, then its parent synced. The new one is read
again before the oldest goes; the one before it stays, for the day the newest turns out to be broken.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from chiasm.core.errors import CheckpointError
from chiasm.core.files import sync
from chiasm.training.world import ALONE, World, whole

KEPT = 2
MARGIN = 16 << 20  # bytes of a disk that a checkpoint leaves free
State = dict[str, Any]


def save(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], state: State, world: World = ALONE) -> Path:
    """Store a checkpoint, prove it, and drop all but the last `KEPT`.

    Args:
        folder: holds the run's checkpoints.
        step: number of steps done.
        tensors: by name; sharded ones are put together.
        state: whatever else, as JSON takes it.
        world: every process must call.

    Returns:
        The checkpoint's own folder.

    Raises:
        CheckpointError: the disk is full (the checkpoints that are there stay as they are), or reading back failed.
    """
    final, partial = folder / _name(step), folder / f".{_name(step)}"
    if fault(final) is None:
        return final
    if world.main:
        _clean(folder)
        _check_room(folder, sum(t.numel() * t.element_size() for t in tensors.values()))
        partial.mkdir(parents=True)
    world.barrier()
    with _full_disk(folder, partial):
        share = _share(tensors, world)
        save_file(share, partial / f"rank-{world.rank:05d}.safetensors")
        sync(partial / f"rank-{world.rank:05d}.safetensors")
        del share
        world.barrier()
        if world.main:
            _write(partial / "state.json", json.dumps({"step": step, **state}))
            files = {path.name: _digest(path) for path in sorted(partial.iterdir())}
            _write(partial / "manifest.json", json.dumps({"files": files}, indent=1))
            sync(partial)
            if final.exists():
                _set_aside(final)
            partial.rename(final)
            sync(folder)
            wrong = fault(final)
            if wrong is not None:
                raise CheckpointError("checkpoint_corrupt", f"{final} was written and reads back otherwise: {wrong}")
            for old in _found(folder)[KEPT:]:
                shutil.rmtree(old)
    world.barrier()
    return final


def load(folder: Path, tell: Callable[[str], None] = lambda line: None, world: World = ALONE) -> Path | None:
    """The newest checkpoint that is whole; broken newer ones are set aside and said.

    Args:
        folder: holds the run's checkpoints.
        tell: takes a line for people.
        world: every process must call.

    Returns:
        The checkpoint's folder; None when there is none at all.

    Raises:
        CheckpointError: there are some and none is whole.
    """
    if world.main:
        _clean(folder)
    world.barrier()
    found = _found(folder)
    faults = [(path, wrong) for path in found if (wrong := fault(path)) is not None]
    good = [path for path in found if path not in {path for path, _ in faults}]
    if found and not good:
        path, wrong = faults[0]
        raise CheckpointError(
            "checkpoint_corrupt",
            f"{folder}: 0 of {len(found)} checkpoints are whole; {path.name}: {wrong}",
            hint="another --out folder",
        )
    world.barrier()
    for path, wrong in faults:
        if world.main and path > good[0]:
            tell(f"checkpoint {path.name} is broken ({wrong}); going on from {good[0].name}")
            _set_aside(path)
    world.barrier()
    return good[0] if good else None


def read_state(checkpoint: Path) -> State:
    """The JSON part."""
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    assert isinstance(state, dict)
    return state


def read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor by name, of all processes' files."""
    tensors = {}
    for path in sorted(checkpoint.glob("rank-*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return tensors


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None when every file is there and is what the manifest says."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text("utf-8"))["files"]
        if "state.json" not in files:
            return "the manifest lists no state.json"
        for name, wanted in files.items():
            found = _digest(checkpoint / name)
            if found != wanted:
                return f"{name} is {found['bytes']} bytes, hash {found['sha256'][:8]}; " + (
                    f"the manifest says {wanted['bytes']}, {wanted['sha256'][:8]}"
                )
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        return f"the manifest can't be read: {error}"
    return None


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _found(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _share(tensors: Mapping[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """The tensors that this process stores, whole and on the CPU; taken one after the other."""
    share = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        full = whole(tensor.detach())
        if number % world.size == world.rank or name.startswith(f"rng/{world.rank}/"):
            share[name] = full.cpu().contiguous()
    return share


def _check_room(folder: Path, needed: int) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        sync(folder.parent)
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise _disk_full(folder, f"a checkpoint needs {needed:,} bytes, {free:,} are free")


def _disk_full(folder: Path, what: str) -> CheckpointError:
    last = next((path.name for path in _found(folder)), "none")
    return CheckpointError("disk_full", f"{folder}: {what}; the last checkpoint is {last}", hint="free space, --resume")


@contextmanager
def _full_disk(folder: Path, partial: Path) -> Iterator[None]:
    """Turn a full disk into an error that says which checkpoint is the last; nothing half written stays."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise _disk_full(folder, "no space is left on the disk") from None
        raise


def _clean(folder: Path) -> None:
    """Remove what killed saves left."""
    for partial in folder.glob(".step-*"):
        shutil.rmtree(partial)


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"broken-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    sync(path)
