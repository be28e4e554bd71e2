"""Reading and writing checkpoint folders: safetensors and JSON only, and whole or not at all.

Reading maps the files (no tensor is copied until it is used), proves names and shapes against a module built
on the meta device, and only then assigns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError, SourceError
from chiasm.core.files import replacing, sync
from chiasm.weights.files import BITS, Entry, read_header, read_json, write_json
from chiasm.weights.meta import shapes_of
from chiasm.weights.table import Table, execute

STEMS = ("model", "open_clip_model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHARD_BYTES = 5 * 10**9
REPEATED = re.compile(r"(?:^|_)(layer|block|depth|expert)s?$")  # num_hidden_layers, n_layer, depth, n_routed_experts
MOST_PARTS, MOST_EXPERTS = 1000, 100_000
CONFIG_LIMIT = 4 * 2**20  # bytes; the names of 21,000 classes, both ways, are half of it


@dataclass(slots=True)
class Checkpoint(Mapping[str, torch.Tensor]):
    """The tensors of a folder (or of one file) by their published names, mapped when asked for."""

    where: str
    entries: dict[str, Entry]
    _open: dict[Path, Any] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> torch.Tensor:
        entry = self.entries[name]
        if entry.file not in self._open:
            self._open[entry.file] = safe_open(entry.file, framework="pt", device="cpu")
        return self._open[entry.file].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor; opens nothing."""
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(math.prod(e.shape) * BITS[e.dtype] // 8 for e in self.entries.values())


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load did: tensors in the files, entries of the module filled, files, dtypes as stored."""

    tensors: int
    filled: int
    files: int
    dtypes: tuple[str, ...]


def open_checkpoint(source: Path | str) -> Checkpoint:
    """Map the weights of a folder, or of one safetensors file; only headers are read.

    Args:
        source: a folder with ``model.safetensors`` or an index and its shards, or a ``.safetensors`` file.

    Returns:
        The tensors, lazily.

    Raises:
        CheckpointError: no weights, only pickles, a damaged header, an index that names other files or
            tensors than there are, a path that leaves the folder, a tensor in two shards.
    """
    source = Path(source)
    if source.is_file():
        return Checkpoint(str(source), read_header(source))
    for stem in STEMS:
        single, index = source / f"{stem}.safetensors", source / f"{stem}.safetensors.index.json"
        if single.is_file() and index.is_file():
            raise CheckpointError("weights_ambiguous", f"{source} holds both {single.name} and {index.name}")
        if single.is_file():
            return Checkpoint(str(source), read_header(single))
        if index.is_file():
            return Checkpoint(str(source), _read_shards(source, index, stem))
    pickles = sorted(p.name for p in source.glob("*") if p.suffix in PICKLES and p.name != "training_args.bin")
    if pickles:
        raise CheckpointError(
            "pickle_refused",
            f"{source} holds its weights as a pickle ({pickles[0]}), which can run code when it is read",
            hint=f"chiasm convert {source} --out {str(source).rstrip('/')}-safetensors",
        )
    raise CheckpointError("weights_missing", f"{source} has no model.safetensors and no model.safetensors.index.json")


def _read_shards(folder: Path, index: Path, stem: str) -> dict[str, Entry]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError("index_malformed", f"{index} has no weight_map of names to files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if PurePosixPath(name).name != name or "\\" in name or name in (".", ".."):
            raise CheckpointError("index_escapes", f"{index} names {name!r}, which is not a file beside it")
        if not (folder / name).is_file():
            raise CheckpointError(
                "shard_missing", f"{index} names {name}, which is not there ({len(names)} shards named)"
            )
    extra = sorted(p.name for p in folder.glob(f"{stem}-*.safetensors") if p.name not in names)
    if extra:
        raise CheckpointError("shard_unexpected", f"{folder} holds {extra[0]}, which {index.name} does not name")
    entries: dict[str, Entry] = {}
    for name in names:
        for tensor, entry in read_header(folder / name).items():
            if tensor in entries:
                raise CheckpointError("tensor_duplicate", f"{tensor} is in both {entries[tensor].file.name} and {name}")
            if weight_map.get(tensor) != name:
                said = weight_map.get(tensor, "nowhere")
                raise CheckpointError("index_mismatch", f"{index.name} puts {tensor} in {said}, but it is in {name}")
            entries[tensor] = entry
    absent = sorted(set(weight_map) - set(entries))
    if absent:
        raise CheckpointError(
            "tensor_missing", f"{index.name} names {len(absent)} tensors that no shard holds, first {absent[0]}"
        )
    return entries


def read_config(folder: Path | str) -> dict[str, Any]:
    """A checkpoint's config: ``config.json``, or OpenCLIP's ``open_clip_config.json``.

    Args:
        folder: the checkpoint folder.

    Returns:
        The config as stored. ``auto_map`` (code named by the checkpoint) is removed: it is never run.

    Raises:
        ConfigError: missing or not a JSON object.
        SourceError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SourceError("folder_missing", f"{folder} is not a folder")
    open_clip = folder / "open_clip_config.json"
    # OpenCLIP's hub folders hold both; there config.json describes a timm tower at most
    use_open_clip = open_clip.is_file() and (folder / "open_clip_model.safetensors").is_file()
    config = read_json(open_clip if use_open_clip else folder / "config.json", CONFIG_LIMIT)
    config.pop("auto_map", None)
    if use_open_clip:
        config.setdefault("model_type", "open_clip")
    _refuse_endless(folder, config)
    return config


def _refuse_endless(folder: Path, config: Any) -> None:
    """Nothing is built before its numbers of layers and experts are ones that a model can have.

    Raises:
        ConfigError: too many; the number and the limit are named.
    """
    most = {"layers": 1, "experts": 1}
    for kind, count in _parts("", config):
        most[kind] = max(most[kind], count)
    told = (*((kind, count, MOST_PARTS) for kind, count in most.items()),
            ("experts of all layers", math.prod(most.values()), MOST_EXPERTS))  # fmt: skip
    for kind, count, limit in told:
        if count > limit:
            raise ConfigError("config_value", f"{folder}: a configuration of {count} {kind}, at most {limit} are built")


def _parts(key: str, value: Any) -> Iterator[tuple[str, int]]:
    """Numbers of layers and of experts, wherever they stand in a configuration."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _parts(str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parts(key, inner)
    elif isinstance(value, int) and (found := REPEATED.search(key)):
        yield ("experts" if found[1] == "expert" else "layers"), value


def load_state(
    module: nn.Module,
    checkpoint: Checkpoint,
    table: Table,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    allow_nonfinite: bool = False,
) -> LoadReport:
    """Fill a module built on the meta device; nothing is assigned until everything is proved.

    Args:
        module: its state dict says which names and shapes are needed.
        checkpoint: from `open_checkpoint`.
        table: the layout's rules.
        dtype: type that floating tensors get; None = as stored.
        device: where they go.
        allow_nonfinite: load NaN and infinite weights all the same.

    Returns:
        Counts for `verify`.

    Raises:
        CheckpointError: any missing, unexpected, duplicate, wrong-shaped or differing tied tensor;
            ``weights_nonfinite`` names the tensors with a NaN or an infinity.
    """
    steps = table.check(checkpoint.shapes, shapes_of(module), checkpoint.where)
    state = execute(steps, checkpoint, "theirs")
    if not allow_nonfinite:
        check_finite(state, checkpoint.where)
    for name, tensor in state.items():
        kind = dtype if dtype is not None and tensor.is_floating_point() else None
        state[name] = tensor.to(device=device, dtype=kind).contiguous()
    module.load_state_dict(state, strict=True, assign=True)
    return LoadReport(
        tensors=len(checkpoint),
        filled=len(state),
        files=len({entry.file for entry in checkpoint.entries.values()}),
        dtypes=tuple(sorted({entry.dtype for entry in checkpoint.entries.values()})),
    )


def check_finite(state: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse weights with a NaN or an infinity.

    Args:
        state: tensors by name.
        where: the folder, for the message.

    Raises:
        CheckpointError: ``weights_nonfinite``, naming them.
    """
    bad = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise CheckpointError(
            "weights_nonfinite",
            f"{where}: {len(bad)} of {len(state)} tensors hold a NaN or an infinity: {', '.join(bad[:5])}{more}",
            hint="--allow-nonfinite to load it all the same",
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:  # no reductions over 8-bit floats
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)  # NaN wins both; one pass and no mask as large as the weights
    return bool(torch.isfinite(low) and torch.isfinite(high))


def save_state(
    folder: Path | str, state: Mapping[str, torch.Tensor], *, stem: str = "model", shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write weights so that a reader sees the old ones or the new ones: temporary files, fsync, rename.

    Args:
        folder: made if absent; older weights of the same stem are replaced.
        state: tensors under their published names.
        stem: ``model`` gives ``model.safetensors``, or shards and an index beyond `shard_bytes`.
        shard_bytes: most bytes of one file (one tensor is never cut).

    Returns:
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for name, tensor in state.items():
        if used and used + tensor.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    total = sum(tensor.nbytes for tensor in state.values())
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    names = [f"{stem}.safetensors"] if len(shards) == 1 else names
    written = [folder / name for name in names]
    with ExitStack() as stack:
        for path, shard in zip(written, shards, strict=True):
            beside = stack.enter_context(replacing(path))
            save_file(_without_aliases(shard), beside, metadata={"format": "pt"})
            sync(beside)  # every shard is on disk before the first is renamed
    index = folder / f"{stem}.safetensors.index.json"
    if len(shards) > 1:
        weight_map = {name: names[i] for i, shard in enumerate(shards) for name in shard}
        write_json(index, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
        written.append(index)
    for stale in (folder / f"{stem}.safetensors", index, *folder.glob(f"{stem}-*-of-*.safetensors")):
        if stale not in written:
            stale.unlink(missing_ok=True)
    sync(folder)
    return written


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as the format holds them: a second view of one storage, or a view of a part of it, is a copy."""
    seen: set[int] = set()
    whole = {}
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        whole[key] = value
    return whole
