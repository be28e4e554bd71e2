"""What parity tests of bridged families share: a random reference, our model of it, gradients, both directions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from chiasm.models.model import Model
from chiasm.weights.checkpoint import read_config, save_state
from chiasm.weights.files import write_json
from chiasm.weights.layouts import layout_for, layout_of


def randomised(reference: Any, std: float = 0.15) -> Any:
    """The reference with no two tensors alike, and none that a swap wouldn't show."""
    torch.manual_seed(0)
    for name, parameter in reference.named_parameters():
        norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.normal_(std=std).add_(1.0 if norm else 0.0)
    return reference.eval()


def goes_both_ways(reference: Any, model: Model, folder: Path, again: Path) -> None:
    """Our tensors under their names are the reference's own, and what we write loads there whole."""
    described = read_config(folder)
    layout = layout_for(described)
    written = layout_of(model.config).config_to(model.config)
    assert layout_for(written) is layout_for(described)
    assert layout.config_from(json.loads(json.dumps(written))) == model.config
    theirs, original = layout.table(model.config).to_theirs(model.module.state_dict()), load_file_all(folder)
    assert sorted(theirs) == sorted(original)
    assert all(torch.equal(theirs[key], original[key]) for key in original)
    again.mkdir()
    save_state(again, theirs)
    write_json(again / "config.json", written)
    kind = getattr(transformers, written["architectures"][0])
    loaded, info = kind.from_pretrained(again, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    rewritten = dict(loaded.named_parameters())
    for name, parameter in reference.named_parameters():
        assert torch.equal(parameter, rewritten[name]), name


def load_file_all(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def replies_agree(
    model: Model,
    conversations: list[Any],
    expected: Callable[[Any], Any],
    *,
    beams: int,
    steps: int = 12,
    source: Callable[[Any], int],
) -> None:
    """Every reply's tokens, alone and in a batch, equal the reference's.

    Args:
        model: ours.
        conversations: what is asked.
        expected: our batch of one conversation → the reference's `generate` on it, (1, T).
        beams, steps: of the search.
        source: our batch → how many tokens of the reference's result are not the reply's.
    """
    ends = set(model.processor.tokenizer.eos_ids)
    together = model.generate(conversations, max_new_tokens=steps, num_beams=beams, batch_size=len(conversations))
    for talk, reply in zip(conversations, together, strict=True):
        batch = model.processor([talk])
        ids = expected(batch)[0, source(batch) :].tolist()
        wanted = ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
        alone = model.generate([talk], max_new_tokens=steps, num_beams=beams)[0]
        assert list(alone.token_ids) == wanted
        assert list(reply.token_ids) == wanted


def same_shapes_as_reference(config: Any, build: Callable[[Mapping[str, Any]], Any]) -> tuple[int, int]:
    """A preset on the meta device against the reference class built there.

    Args:
        config: the preset.
        build: (published config) → the reference, called on the meta device.

    Returns:
        Our number of parameters and the reference's.
    """
    layout = layout_of(config)
    with torch.device("meta"):
        module = config.build()
        reference = build(layout.config_to(config))
    theirs = {key: tuple(tensor.shape) for key, tensor in reference.state_dict().items()}
    ours = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    steps = layout.table(config).check(theirs, ours)
    assert {target for step in steps for target in step.targets} == set(ours)
    return sum(p.numel() for p in module.parameters()), sum(p.numel() for p in reference.parameters())
