"""MiniGPT-4's four published parts, written from a model of ours under their own names, come back as that model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.connectors.qformer import QFormerConfig
from chiasm.core.errors import CheckpointError
from chiasm.models import minigpt4
from chiasm.models.assembly import Parts, eva_tower
from chiasm.models.model import Model
from chiasm.weights.checkpoint import save_state
from chiasm.weights.convert import convert
from chiasm.weights.layouts import llama
from chiasm.weights.layouts import minigpt4 as published
from chiasm.weights.load import initialise
from chiasm.weights.meta import build_on_meta, shapes_of
from chiasm.weights.table import Table

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8))


def written(folder: Path) -> Model:
    """A small MiniGPT-4, its parts in `folder` as they are published."""
    config, processor = minigpt4.tiny()
    config = replace(
        config,
        vision=eva_tower(32, patch=8, width=176, layers=2, heads=2, mlp=64),
        connector=QFormerConfig(
            input_dim=176, output_dim=48, num_queries=4, hidden_dim=128, num_layers=3, num_heads=2, mlp_dim=64
        ),
    )
    model = Model(
        initialise(config, 0), minigpt4.processor(config, Parts(processor.tokenizer)), minigpt4.FAMILY, config
    )
    for name, parameter in model.module.named_parameters():
        if name.startswith("vision.") and name.endswith("attn.k_proj.bias"):
            parameter.data.zero_()
        elif parameter.ndim == 1:
            parameter.data.normal_(std=0.3, generator=torch.manual_seed(len(name)))
    theirs = published.table(config).to_theirs(model.module.state_dict())
    words = {n.removeprefix(published.LANGUAGE): t for n, t in theirs.items() if n.startswith(published.LANGUAGE)}
    tower = {n: t for n, t in theirs.items() if n.startswith(("blocks.", "patch_embed.", "cls_token", "pos_embed"))}
    mapped = {n: t for n, t in theirs.items() if n.startswith("llama_proj.")}
    reader = {n: t for n, t in theirs.items() if n not in mapped and n not in tower and not n.startswith("language.")}
    for name in [name for name in tower if name.endswith("qkv.bias")]:
        q, _, v = tower.pop(name).chunk(3)
        tower[name.replace("qkv.bias", "q_bias")], tower[name.replace("qkv.bias", "v_bias")] = q, v
    tower |= {n.replace("blocks.1.", "blocks.2."): t for n, t in tower.items() if n.startswith("blocks.1.")}
    tower |= {"norm.weight": torch.ones(176), "head.weight": torch.ones(3, 176)}
    layer = "Qformer.bert.encoder.layer.0."
    text = {layer + "intermediate.dense.weight": torch.ones(64, 128), layer + "output.LayerNorm.bias": torch.ones(128)}
    text |= {"Qformer.bert.embeddings.word_embeddings.weight": torch.ones(9, 128), "t5_proj.bias": torch.ones(5)}
    folder.mkdir()
    torch.save({n: t.half() if n == "cls_token" else t for n, t in tower.items()}, folder / "eva_vit_g.pth")
    torch.save({"model": {**reader, **text}}, folder / "blip2_pretrained_flant5xxl.pth")
    torch.save({"model": mapped, "epoch": 4}, folder / "pretrained_minigpt4_7b.pth")
    vicuna = folder / "vicuna"
    save_state(vicuna, words)
    (vicuna / "config.json").write_text(json.dumps(llama.decoder_dict(config.language)))
    processor.tokenizer.save(vicuna)
    module = model.module.get_submodule("vision")
    module.cls_token.data.copy_(module.cls_token.data.half().float())
    return model


def test_the_parts_put_together_are_the_model(tmp_path: Path) -> None:
    model = written(tmp_path / "parts")
    report = convert(tmp_path / "parts", tmp_path / "whole")
    assert report.skipped == {"epoch": "int"} and len(report.sources) == 4
    again = chiasm.load(tmp_path / "whole")
    assert again.family.name == "minigpt4" and again.config == model.config
    talk = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what is it?"}]}]
    with torch.no_grad():
        logits = [each.module(each.processor([talk])) for each in (model, again)]
    assert torch.equal(*logits)
    assert again.processor.prompt(talk).text.startswith("###Human: <Img>")


@pytest.mark.parametrize(
    ("file", "what"),
    [("eva_vit_g.pth", "EVA's tower"), ("pretrained_minigpt4_7b.pth", "the map")],
)
def test_a_part_that_is_not_there_is_named(file: str, what: str, tmp_path: Path) -> None:
    written(tmp_path / "parts")
    (tmp_path / "parts" / file).unlink()
    with pytest.raises(CheckpointError, match=what) as caught:
        convert(tmp_path / "parts", tmp_path / "whole")
    assert caught.value.code == "parts_missing" and not (tmp_path / "whole").exists()


def test_published_sizes_have_the_published_names() -> None:
    """EVA-g's 39 layers, twelve layers of BERT with six looks at the picture, one map, LLaMA."""
    config = minigpt4.PRESETS["minigpt4_7b"]
    shapes = shapes_of(build_on_meta(config))
    theirs = published.table(config).to_theirs({n: torch.empty(s, device="meta") for n, s in shapes.items()})
    assert theirs["llama_proj.weight"].shape == (4096, 768) and theirs["query_tokens"].shape == (1, 32, 768)
    assert theirs["blocks.38.attn.qkv.weight"].shape == (4224, 1408) and "blocks.39.norm1.weight" not in theirs
    assert theirs["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"].shape == (768, 1408)
    assert "Qformer.bert.encoder.layer.11.crossattention.self.key.weight" not in theirs
    assert published.config_of({n: tuple(t.shape) for n, t in theirs.items()}, config.language, 32000) == config
    words = {name.removeprefix("language.") for name in theirs if name.startswith("language.")}
    own = {n.removeprefix("language."): torch.empty(s, device="meta") for n, s in shapes.items() if "language." in n}
    assert set(Table(llama.decoder_rules(config.language)).to_theirs(own)) == words
