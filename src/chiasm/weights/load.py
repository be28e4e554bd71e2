"""`load` and `new`: from a source, or from nothing, to a `Model`; and back to a folder.

A model is built on the meta device, the checkpoint is proved against it tensor by tensor, and only then assigned:
nothing is ever half loaded, and nothing in a checkpoint is run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.config import check
from chiasm.core.devices import device_called
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.files import sync
from chiasm.core.registry import Family, families, family
from chiasm.language.decoder import Decoder
from chiasm.models.assembly import Parts
from chiasm.models.model import Model
from chiasm.models.shrinking import shrink
from chiasm.nn.lora import merge_lora
from chiasm.nn.storage import column_major
from chiasm.processing.tokenizer import Tokenizer
from chiasm.weights.adapters import attach, base_of, is_adapter, read_adapter, write_adapter
from chiasm.weights.bundled import bundled_folders, frozen_in, load_bundle
from chiasm.weights.checkpoint import load_state, open_checkpoint, read_config, save_state
from chiasm.weights.files import read_json, write_json
from chiasm.weights.frozen import tower_tokenizer
from chiasm.weights.layouts import layout_for, layout_of, native
from chiasm.weights.layouts.layout import Layout
from chiasm.weights.malformed import said_by
from chiasm.weights.meta import build_on_meta
from chiasm.weights.quantize import check_kind
from chiasm.weights.quantize import quantize as quantize_module
from chiasm.weights.sources import resolve

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    source: str | os.PathLike[str],
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    offline: bool | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Model:
    """Load a model.

    Args:
        source: a bundled name (``nano``, ``nano-dual``), a folder in a published layout, the folder of a finished
            training run, or a hub id. A local path never touches the network. A folder with a low-rank adapter in
            PEFT's format loads the model that it was made for, the adapter folded in.
        device: ``auto`` (a GPU where there is one), or any torch device.
        dtype: ``auto`` (float32 on a CPU, as stored on a GPU), ``float32``, ``bfloat16`` or ``float16``.
        quantize: ``int8`` or ``int4`` weights of the language model (of all towers, in a model without one),
            ``int8:all`` or ``int4:all`` of every linear layer; None = as stored. See `weights.quantize`.
        offline: True forbids the network; None asks the environment.
        allow_nonfinite: load weights that hold NaN or infinities.

    Returns:
        The model, in evaluation mode.

    Raises:
        SourceError: the source can't be found or reached.
        ConfigError: its configuration, or an option's value, isn't known.
        CheckpointError: its tensors aren't exactly the model's; they are named.
    """
    if quantize is not None:
        check_kind(quantize)
        model = load(source, device, dtype, offline=offline, allow_nonfinite=allow_nonfinite)
        quantize_module(model.module, quantize)
        return Model(model.module, model.processor, model.family, model.config, name=model.name, quantized=quantize)
    place, kind = device_called(device), _dtype(dtype, device_called(device))
    folder = _model_in(resolve(source, offline, bundled=bundled_folders()))
    if is_adapter(folder):
        adapted = load(base_of(folder), device, dtype, offline=offline, allow_nonfinite=allow_nonfinite)
        attach(adapted.module, read_adapter(folder, _layout_of(adapted.config), adapted.config))
        merge_lora(adapted.module).requires_grad_(True).eval()
        adapted.name = str(source)
        return adapted
    with said_by(folder, _built):
        description = read_config(folder)
        layout, config, module = _built(description)
        has, table, frozen = family(layout.family), layout.table(config), frozen_in(description)
    if frozen:
        parts = Parts(load_bundle(folder, frozen, module))
        module.to(device=place, dtype=kind)
    else:
        checkpoint = open_checkpoint(folder)
        load_state(module, checkpoint, table, dtype=kind, device=place, allow_nonfinite=allow_nonfinite)
        parts = read_parts(folder, description)
    with said_by(folder):
        processor = has.processor(config, parts)
    for decoder in module.modules():
        if isinstance(decoder, Decoder):
            column_major(decoder)  # writing is one token at a time
    return Model(module, processor, has, config, writer=_writer(layout), name=str(source))


def load_processor(source: str | os.PathLike[str], offline: bool | None = None) -> tuple[Any, nn.Module]:
    """A model's processor without the model: what `data check` proves rows with.

    Args:
        source, offline: as for `load`.

    Returns:
        The processor, and the module on the meta device, whose shapes alone are known.

    Raises:
        SourceError: the source can't be found or reached.
        ConfigError: its configuration isn't known.
    """
    folder = resolve(source, offline, bundled=bundled_folders())
    with said_by(folder, _built):
        description = read_config(folder)
        layout, config, module = _built(description)
        frozen = frozen_in(description)
        parts = Parts(tower_tokenizer(frozen.values())) if frozen else read_parts(folder, description)
        return family(layout.family).processor(config, parts), module


def known(source: str | os.PathLike[str], offline: bool | None = None) -> tuple[Family, Any, Path]:
    """What a source is; no weight is read.

    Args:
        source, offline: as for `load`.

    Returns:
        Its family, its configuration, and the folder where it lies.

    Raises:
        SourceError: the source can't be found or reached.
        ConfigError: its configuration isn't known.
    """
    folder = _model_in(resolve(source, offline, bundled=bundled_folders()))
    described = _model_in(resolve(base_of(folder), offline)) if is_adapter(folder) else folder
    with said_by(described, _configured):
        layout, config = _configured(read_config(described))
        return family(layout.family), config, folder


def new(source: str | os.PathLike[str], tiny: bool = True, seed: int = 0) -> Model:
    """Make a random-weight model with a working processor.

    Args:
        source: a family's name, or a folder whose wiring, tokenizer and picture settings are taken.
        tiny: a miniature; only miniatures can be made of a family.
        seed: of the weights.

    Returns:
        The model, float32, on the CPU.

    Raises:
        ConfigError: no such family, or not `tiny`.
        SourceError: no such folder.
    """
    if isinstance(source, str) and source in families():
        has = family(source)
        if not tiny:
            raise ConfigError(
                "new_full_size", f"a full-size {source} has no tokenizer of its own", hint=f"chiasm new {source} --tiny"
            )
        config, processor = has.tiny()
        layout = _layout_of(config)
    else:
        folder = resolve(source, offline=True)
        with said_by(folder, _configured):
            description = read_config(folder)
            layout, config = _configured(description)
            has, config = family(layout.family), shrink(config) if tiny else config
            processor = has.processor(config, read_parts(folder, description))
    return Model(initialise(config, seed), processor, has, config, writer=_writer(layout), name=f"new {has.name}")


def initialise(config: Any, seed: int = 0) -> nn.Module:
    """Build with random weights that depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = config.build()
        for part in module.modules():
            if hasattr(part, "init_weights"):
                part.init_weights()
    return module


def parts_of(source: str | os.PathLike[str] | None, family_name: str) -> Parts:
    """What a folder or hub id says about processing, for a model with new weights.

    Raises:
        ConfigError: no source.
    """
    if source is None:
        what = f"a full-size {family_name} has no tokenizer of its own"
        raise ConfigError("processing_missing", what, hint="--set model.processing=FOLDER, of a published checkpoint")
    folder = resolve(source, bundled=bundled_folders())
    return read_parts(folder, read_config(folder))


def save_adapter(model: Model, folder: str | Path, base: str, *, whole: Iterable[str] = ()) -> None:
    """Write a model's low-rank updates in PEFT's format; `load` and `peft` read them.

    Args:
        model: with layers of `nn.lora`.
        folder: made if absent.
        base: what the model without them is loaded from.
        whole: names of further tensors of the module that were trained in full.

    Raises:
        ConfigError: no adapted layer, or PEFT has no name for one.
    """
    write_adapter(Path(folder), model.module, _layout_of(model.config), model.config, base=base, whole=whole)


def layout_for_config(config: Any) -> Layout:
    """The published layout that models of a configuration's type are written in, or our own."""
    return _layout_of(config)


def writer_for(config: Any) -> Any:
    """The function (model, folder) that writes models of a configuration's type in their layout."""
    return _writer(_layout_of(config))


def read_parts(folder: Path, description: Mapping[str, Any]) -> Parts:
    """What a folder says about processing: tokenizer, picture settings (older or newer file), chat template."""
    with said_by(folder):
        tokenizer = Tokenizer.from_folder(folder)
    settings = read_json(folder / "processor_config.json") if (folder / "processor_config.json").is_file() else {}
    pictures = settings.pop("image_processor", None)
    if "preprocess_cfg" in description:
        pictures = description
    elif pictures is None and (folder / "preprocessor_config.json").is_file():
        pictures = read_json(folder / "preprocessor_config.json")
    template = tokenizer.chat_template or settings.pop("chat_template", None)
    settings = {key: value for key, value in settings.items() if key not in ("auto_map", "chat_template")}
    return Parts(tokenizer, pictures, template, settings, folder)


def _model_in(folder: Path) -> Path:
    """A training run's folder holds its model in a folder of that name."""
    run = folder / "recipe.yaml"
    return folder / "model" if run.is_file() and (folder / "model").is_dir() else folder


def _configured(description: Mapping[str, Any]) -> tuple[Layout, Any]:
    """The layout that a configuration is stored in, and ours."""
    ours = description.get("model_type") == "chiasm"
    layout = native.layout(description.get("family")) if ours else layout_for(description)
    config = layout.config_from(description)
    check(config)
    return layout, config


def _built(description: Mapping[str, Any]) -> tuple[Layout, Any, nn.Module]:
    """The same, and the module, its shapes alone."""
    layout, config = _configured(description)
    return layout, config, build_on_meta(config)


def _layout_of(config: Any) -> Layout:
    try:
        return layout_of(config)
    except ConfigError:
        return native.layout(native.family_of(config))


def _writer(layout: Layout) -> Any:
    def write(model: Model, folder: Path) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError("folder_not_empty", f"{folder} is there already and not an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # everything is written beside the target and renamed at the end: no reader ever sees half a model
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            _write_into(building, model, layout)
            building.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            building.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    return write


def _write_into(folder: Path, model: Model, layout: Layout) -> None:
    state = layout.table(model.config).to_theirs(model.module.state_dict())
    save_state(folder, state, stem=layout.stem)
    description = layout.config_to(model.config)
    if layout.config_file == "config.json":
        description["dtype"] = str(next(model.module.parameters()).dtype).removeprefix("torch.")
    elif model.processor.image_processor.background is None:  # open_clip looks for its pictures' settings here
        description |= model.processor.image_processor.to_config()
    write_json(folder / layout.config_file, description)
    model.processor.save(folder)
    if "generate" in model.capabilities:
        tokenizer = model.processor.tokenizer
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": list(tokenizer.eos_ids),
            "pad_token_id": tokenizer.pad_id,
        }
        write_json(folder / "generation_config.json", {key: value for key, value in ids.items() if value is not None})


def _dtype(wanted: str | torch.dtype, device: torch.device) -> torch.dtype | None:
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else None
    if wanted not in DTYPES:
        raise ConfigError("dtype_unknown", f"dtype {wanted!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[wanted]
