"""Low-rank adapters in PEFT's files: ``adapter_config.json`` and ``adapter_model.safetensors``.

An adapter names the layers of the reference's own module (``base_model.model.<module>.lora_A.weight``); the layout's
table and its `modules` say which of ours those are. Whole tensors beside the low-rank ones (``modules_to_save``: a
connector trained in full, say) are read and written too. Not read: DoRA, biases, embeddings' updates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.nn.lora import LoRALinear, add_lora
from chiasm.weights.checkpoint import check_finite, open_checkpoint, save_state
from chiasm.weights.files import read_json, write_json
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.rules import Rename, Reshape, Split, dims
from chiasm.weights.table import Problems, Table

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model"
_ROOT = "base_model.model."
# Settings that change what an adapter computes and that we don't follow; each with its harmless values.
_UNREAD: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "use_bdlora": (False,),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "layer_replication": (),
    "alora_invocation_tokens": (),
    "trainable_token_indices": (),
    "target_parameters": ([],),
    "arrow_config": (),
    "monteclora_config": (),
}


@dataclass(frozen=True, slots=True)
class Update:
    """One layer's low-rank update, scale · B A: `a` (r, in), `b` (out, r)."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a folder holds, under our names.

    Attributes:
        updates: by name of the linear layer.
        tensors: whole tensors that replace the module's.
    """

    updates: dict[str, Update]
    tensors: dict[str, torch.Tensor]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """Where the model that an adapter was made for comes from.

    Args:
        folder: the adapter's.

    Returns:
        A folder or a hub id; a relative path is looked for beside the adapter, too.

    Raises:
        ConfigError: the adapter doesn't say.
    """
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        hint = f'"base_model_name_or_path" in {folder / CONFIG}'
        raise ConfigError("adapter_base", f"{folder}: {CONFIG} names no base model", hint=hint)
    beside = folder / base
    return str(beside) if not Path(base).exists() and beside.is_dir() else base


def read_adapter(folder: Path, layout: Layout, config: Any) -> Adapter:
    """Read an adapter for a model.

    Args:
        folder: the adapter's.
        layout, config: of the base model.

    Returns:
        Its tensors under our names; shapes are not checked yet.

    Raises:
        ConfigError: another kind of adapter, or a setting that we don't follow.
        CheckpointError: damaged or non-finite tensors, halves without each other, names that the model lacks.
    """
    settings = read_json(folder / CONFIG)
    _check_settings(settings, folder)
    checkpoint = open_checkpoint(folder / f"{WEIGHTS}.safetensors")
    state = {name: checkpoint[name] for name in checkpoint}
    check_finite(state, str(folder))
    table = layout.table(config)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        module, kind = _parse(name)
        if kind is None:
            tensors[module] = tensor
        else:
            halves.setdefault(module, {})[kind] = tensor
    updates: dict[str, Update] = {}
    for module, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise CheckpointError("lora_mismatch", f"{folder}: the update of {module} has only lora_{''.join(pair)}")
        update = Update(pair["A"], pair["B"], _scale(settings, module, len(pair["A"])))
        updates |= _our_updates(table, module, update, folder)
    problems = Problems()
    steps = table.plan(tensors, "theirs", problems)
    problems.raise_for(str(folder))
    ours: dict[str, torch.Tensor] = {}
    for step in steps:
        ours.update(zip(step.targets, step.rule.forward([tensors[name] for name in step.sources]), strict=True))
    return Adapter(updates, ours)


def attach(module: nn.Module, adapter: Adapter) -> list[str]:
    """Put an adapter onto a module, in place, as layers that go on learning (`nn.lora`); `merge_lora` folds them in.

    Args:
        module: the base model's.
        adapter: from `read_adapter`.

    Returns:
        The names of the adapted layers.

    Raises:
        CheckpointError: a layer that is no linear layer of the module, or another shape; nothing is changed then.
    """
    layers, own = dict(module.named_modules()), module.state_dict()
    for name, update in adapter.updates.items():
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise CheckpointError("lora_mismatch", f"the adapter updates {name}, which is no linear layer of the model")
        shape = (len(update.b), update.a.shape[1])
        if tuple(layer.weight.shape) != shape or len(update.a) != update.b.shape[1]:
            what = f"{name}: update {dims(update.b.shape)} · {dims(update.a.shape)}"
            raise CheckpointError("lora_mismatch", f"{what}, weight {dims(layer.weight.shape)}")
    for name, tensor in adapter.tensors.items():
        if name not in own or own[name].shape != tensor.shape:
            needed = dims(own[name].shape) if name in own else "no such tensor"
            raise CheckpointError("lora_mismatch", f"{name} is {dims(tensor.shape)}, the model has {needed}")
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            own[name].copy_(tensor)
        for name, update in adapter.updates.items():
            rank = len(update.a)
            add_lora(module, re.escape(name), rank, update.scale * rank)
            layer = module.get_submodule(name)
            assert isinstance(layer, LoRALinear)
            layer.lora_a.copy_(update.a)
            layer.lora_b.copy_(update.b)
    return list(adapter.updates)


def write_adapter(
    folder: Path, module: nn.Module, layout: Layout, config: Any, *, base: str, whole: Iterable[str] = ()
) -> None:
    """Write a module's low-rank updates as PEFT reads them.

    Args:
        folder: made if absent.
        module: with layers of `nn.lora`.
        layout, config: of the base model.
        base: what the base model is loaded from: a folder or a hub id.
        whole: names of further tensors that were trained in full.

    Raises:
        ConfigError: no adapted layer, or the layout stores a layer in a way that PEFT has no name for.
    """
    layers = {name: part for name, part in module.named_modules() if isinstance(part, LoRALinear)}
    if not layers:
        raise ConfigError("lora_no_match", "the model has 0 adapted layers, an adapter needs at least 1")
    table = layout.table(config)
    names = {name: _their_module(table, layout, name + ".weight").removesuffix(".weight") for name in layers}
    state, own = {}, module.state_dict()
    for name, layer in layers.items():
        state[f"{_ROOT}{names[name]}.lora_A.weight"] = layer.lora_a
        state[f"{_ROOT}{names[name]}.lora_B.weight"] = layer.lora_b
    kept = {_their_module(table, layout, name): own[name] for name in whole}
    state |= {_ROOT + name: tensor for name, tensor in kept.items()}
    ranks = {names[name]: len(layer.lora_a) for name, layer in layers.items()}
    alphas = {names[name]: _plain(layer.scale * len(layer.lora_a)) for name, layer in layers.items()}
    rank, alpha = (max(values, key=list(values).count) for values in (ranks.values(), alphas.values()))
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder, state, stem=WEIGHTS)
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {_exactly(name): each for name, each in ranks.items() if each != rank},
        "alpha_pattern": {_exactly(name): each for name, each in alphas.items() if each != alpha},
        "target_modules": sorted(names.values()),
        "modules_to_save": sorted({name.rpartition(".")[0] for name in kept}) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(folder / CONFIG, settings)


def _check_settings(settings: Mapping[str, Any], folder: Path) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ConfigError("adapter_kind", f"{folder}: peft_type is {kind!r}, known is 'LORA'")
    for name, harmless in _UNREAD.items():
        value = settings.get(name)
        if value is not None and value not in harmless:
            raise ConfigError("adapter_setting", f"{folder}: {name} is {value!r}, which we don't follow")


def _parse(name: str) -> tuple[str, str | None]:
    """A tensor's name → its module and half (``A``, ``B``), or a whole tensor's name and None."""
    if not name.startswith(_ROOT):
        raise CheckpointError("tensor_unexpected", f"{name} doesn't begin with {_ROOT}")
    plain = name.removeprefix(_ROOT)
    match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", plain)
    if match:
        return match[1], match[2]
    if ".lora_" in plain:
        raise CheckpointError("tensor_unexpected", f"{name} is neither a linear layer's lora_A nor its lora_B")
    return plain, None


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = next(
        (v for key, v in (settings.get("alpha_pattern") or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)),
        settings.get("lora_alpha"),
    )
    if not isinstance(alpha, (int, float)):
        raise ConfigError("adapter_setting", f"lora_alpha is {alpha!r}, not a number")
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _our_updates(table: Table, module: str, update: Update, folder: Path) -> dict[str, Update]:
    """One of their layers' update → ours: the same, or cut where ours are parts of theirs."""
    problems = Problems()
    steps = table.plan([module + ".weight"], "theirs", problems)
    problems.raise_for(str(folder))
    rule = steps[0].rule if steps else None
    names = [name.removesuffix(".weight") for name in steps[0].targets] if steps else []
    if isinstance(rule, Split) and rule.dim == 0:
        return {n: Update(update.a, b, update.scale) for n, b in zip(names, rule.forward([update.b]), strict=True)}
    if not isinstance(rule, Rename) or isinstance(rule, Reshape):
        raise CheckpointError("lora_mismatch", f"{folder}: {module} is stored in a form that takes no update")
    return {names[0]: update}


def _their_module(table: Table, layout: Layout, name: str) -> str:
    """Our tensor's name → its name in the reference's own module."""
    steps = table.plan([name], "ours", Problems())
    if not steps or not isinstance(steps[0].rule, Rename) or isinstance(steps[0].rule, Reshape):
        raise ConfigError("config_unpublished", f"{name} is no tensor of its own in the layout {layout.name}")
    theirs = steps[0].targets[0]
    return next((to + theirs[len(by) :] for by, to in layout.modules if theirs.startswith(by)), theirs)


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def _exactly(name: str) -> str:
    return "^" + re.escape(name)
