"""ALBEF against torchmultimodal's parts: states, contrast with queue and soft targets, gradients; and its own files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.parity.agreement import ATOL
from tests.parity.reference import run_reference
from tests.parity.test_families import picture

import chiasm
from chiasm.models.albef import Albef, Labels, Pretraining, Questions, tiny
from chiasm.objectives.momentum import EmbeddingQueue, distilled_contrast
from chiasm.weights.convert import convert
from chiasm.weights.layouts import albef as layout
from chiasm.weights.layouts import recognised
from chiasm.weights.load import initialise
from chiasm.weights.rules import Rename, Reshape, Split
from chiasm.weights.table import Table

SCRIPT = """
from torchmultimodal.modules.encoders.bert_text_encoder import bert_text_encoder
from torchmultimodal.modules.losses.albef import ImageTextContrastiveLoss
from torchmultimodal.models.albef.image_encoder import ALBEFVisionEncoder
from torchmultimodal.models.albef.model import ALBEFModel, ALBEFModelWithSimilarity
from torchmultimodal.models.albef.multimodal_encoder import ALBEFMultimodalEncoder
text = bert_text_encoder(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, dropout=0.0,
                         vocab_size=VOCAB, max_position_embeddings=64)
albef = ALBEFModel(ALBEFVisionEncoder(32, 8, 2, 2, 32, 64), text, ALBEFMultimodalEncoder(32, 2, 2, 64))
model = ALBEFModelWithSimilarity(albef, torch.nn.Linear(32, 16), torch.nn.Linear(32, 16), embed_size=16, queue_size=9)
model.eval()
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "_m." not in name and name != "temp":
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.1 * noise
    for name, parameter in model.named_parameters():
        if "_m." in name:
            own = model.get_parameter(name.replace("_m.", "."))
            parameter.copy_(own + 0.1 * torch.randn(own.shape, generator=generator))
model.albef_model.momentum = 1.0
weights = {"w." + key: value.clone() for key, value in model.state_dict().items()}
out = model(inputs["pixels"], inputs["ids"], inputs["mask"], torch.arange(3))
sims = out.similarity
targets = torch.zeros_like(sims.sim_i2t)
targets.fill_diagonal_(1)
loss = ImageTextContrastiveLoss()(sims.sim_i2t, sims.sim_t2i, sims.sim_i2t_m, sims.sim_t2i_m, targets, alpha=0.4)
(loss + out.multimodal_embeddings[:, 0].square().mean()).backward()
outputs = {
    **weights, "loss": loss, "images": out.image_embeddings, "texts": out.text_embeddings,
    "fused": out.multimodal_embeddings, "i2t": sims.sim_i2t, "t2i": sims.sim_t2i, "queue": model.image_queue,
    **{"g." + name: p.grad for name, p in model.named_parameters() if p.grad is not None},
}
"""


def reference_table(copy: bool = False) -> Table:
    """torchmultimodal's names of the model, or of its momentum copy."""
    m = "_m" if copy else ""
    vision, text = f"albef_model.vision_encoder{m}.encoder.", f"albef_model.text_encoder{m}."
    rules = [
        Reshape(vision + "class_token", "vision.cls_token", (1, 1, 32), (32,)),
        Reshape(vision + "encoder.pos_embedding", "vision.pos_embed", (1, 17, 32), (17, 32)),
        Rename(vision + "conv_proj.{p}", "vision.patch_embed.{p}"),
        Rename(vision + "encoder.ln.{p}", "vision.norm_post.{p}"),
        Rename(text + "embeddings.word_embeddings.weight", "language.token_embed.weight"),
        Rename(text + "embeddings.position_embeddings.weight", "language.pos_embed"),
        Rename(text + "embeddings.token_type_embeddings.weight", "language.type_embed"),
        Rename(text + "embeddings.layer_norm.{p}", "language.embed_norm.{p}"),
        Rename(f"vision_proj{m}.{{p}}", "vision_proj.{p}"),
        Rename(f"text_proj{m}.{{p}}", "text_proj.{p}"),
    ]
    for i in range(2):
        layer, block = f"{vision}encoder.layers.encoder_layer_{i}.", f"vision.blocks.{i}."
        rules += [
            Rename(layer + "ln_1.{p}", block + "norm1.{p}"),
            Rename(layer + "ln_2.{p}", block + "norm2.{p}"),
            Split(layer + "self_attention.in_proj_{p}", tuple(f"{block}attn.{n}_proj.{{p}}" for n in "qkv")),
            Rename(layer + "self_attention.out_proj.{p}", block + "attn.o_proj.{p}"),
            Rename(layer + "mlp.0.{p}", block + "mlp.fc1.{p}"),
            Rename(layer + "mlp.3.{p}", block + "mlp.fc2.{p}"),
        ]
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    for i in range(4):
        layer = f"{text}encoder.layer.{i}." if i < 2 else f"albef_model.multimodal_encoder{m}.layer.{i - 2}."
        block = f"language.blocks.{i}."
        rules += [Rename(f"{layer}attention.{n}.{{p}}", f"{block}attn.{o}.{{p}}") for n, o in names.items()]
        rules += [
            Rename(layer + "attention_layernorm.{p}", block + "norm1.{p}"),
            Rename(layer + "feedforward_layernorm.{p}", block + "norm2.{p}"),
            Rename(layer + "feedforward.model.0.{p}", block + "mlp.fc1.{p}"),
            Rename(layer + "feedforward.model.2.{p}", block + "mlp.fc2.{p}"),
        ]
        if i >= 2:
            rules += [
                Rename(f"{layer}cross_attention.{n}.{{p}}", f"{block}cross_attn.{o}.{{p}}") for n, o in names.items()
            ]
            rules.append(Rename(layer + "cross_attention_layernorm.{p}", block + "cross_norm.{p}"))
    return Table(rules)


def test_states_contrast_and_gradients_agree(tmp_path) -> None:
    config, processor = tiny()
    config = replace(
        config,
        vision=replace(config.vision, hidden_dim=32),
        language=replace(config.language, cross=replace(config.language.cross, context_dim=32)),
    )
    batch = processor.pairs([picture(i, 40, 30) for i in range(3)], ["a red cat", "two dogs and a ball", "a"])
    inputs = {"pixels": batch.pixel_values, "ids": batch.input_ids, "mask": batch.attention_mask.long()}
    script = SCRIPT.replace("VOCAB", str(config.language.vocab_size))
    theirs = run_reference(script, inputs, tmp_path)
    weights = {name[2:]: tensor for name, tensor in theirs.items() if name.startswith("w.")}
    modules = []
    for copy in (False, True):
        module: Albef = initialise(config)
        table = reference_table(copy)
        own = {name: tensor for name, tensor in weights.items() if ("_m." in name) == copy and "." in name}
        missing, unexpected = module.load_state_dict(table.to_ours(own), strict=False)
        assert not unexpected and all(name.startswith(("match_head", "word_head", "temperature")) for name in missing)
        modules.append(module)
    module, twin = modules
    images, texts = module.encode_images(batch.pixel_values), module.read_texts(batch.input_ids, batch.attention_mask)
    fused = module.fuse(texts, [images])
    real = batch.attention_mask
    assert (images - theirs["images"]).abs().max() <= ATOL
    assert (texts.states - theirs["texts"])[real].abs().max() <= ATOL
    assert (fused - theirs["fused"])[real].abs().max() <= ATOL
    queue = EmbeddingQueue(16, 9)
    queue.images.copy_(weights["image_queue"].T), queue.texts.copy_(weights["text_queue"].T)
    with torch.no_grad():
        images_m = twin.embed_images(batch.pixel_values)
        texts_m = twin.embed_texts(batch.input_ids, batch.attention_mask)
    said = module.project_images(images), module.project_texts(texts.states)
    loss, i2t, t2i = distilled_contrast(*said, images_m, texts_m, queue, module.temperature, 0.4)
    assert (i2t - theirs["i2t"][:, :3]).abs().max() <= ATOL and (t2i - theirs["t2i"][:, :3]).abs().max() <= ATOL
    assert abs(loss - theirs["loss"]) <= ATOL
    exact = twin.double()  # so that the reference's rounding alone is left
    with torch.no_grad():
        queue.push(
            exact.embed_images(batch.pixel_values.double()), exact.embed_texts(batch.input_ids, batch.attention_mask)
        )
    assert (queue.images.T - theirs["queue"]).abs().max() <= 1e-6
    (loss + fused[:, 0].square().mean()).backward()
    grads = {name[2:]: tensor for name, tensor in theirs.items() if name.startswith("g.")}
    assert (module.temperature.grad - grads.pop("temp")).abs() <= 1e-4  # of the order of ten
    own = {name: p.grad for name, p in module.named_parameters() if p.grad is not None and name != "temperature"}
    translated = reference_table().to_theirs(own)
    assert set(translated) == set(grads)
    for name, gradient in translated.items():
        assert (gradient - grads[name]).abs().max() <= ATOL * max(1.0, grads[name].abs().max()), name


FORMS = {
    "pretrained": Pretraining(embed_dim=16),
    "retrieval": Pretraining(embed_dim=16, words=False),
    "entailment": Labels(labels=("contradiction", "neutral", "entailment")),
    "pairs": Labels(labels=("False", "True"), images=2),
    "questions": Questions(num_layers=2, start_id=101),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_authors_checkpoint_converts_and_loads(form, tmp_path) -> None:
    config, processor = tiny(FORMS[form])
    heads = replace(config.language, num_heads=1)  # what a recogniser assumes: heads of 64, here the whole width
    vision = replace(config.vision, num_heads=1)
    config = replace(config, language=heads, vision=vision)
    module = initialise(config)
    theirs = layout.table(config).to_theirs(module.state_dict())
    copies = {}
    for name, tensor in theirs.items():
        head, _, rest = name.partition(".")
        if rest and head in ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "text_proj", "cls_head"):
            copies[f"{head}_m.{rest}"] = tensor + 1
    queues = {"image_queue": torch.zeros(16, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    (tmp_path / "source").mkdir()
    torch.save({"model": {**theirs, **copies, **(queues if form == "pretrained" else {})}, "epoch": 3},
               tmp_path / "source" / "checkpoint.pth")  # fmt: skip
    processor.save(tmp_path / "source")
    report = convert(tmp_path / "source", tmp_path / "out")
    assert "config.json" in report.files
    loaded = chiasm.load(tmp_path / "out")
    assert loaded.config == config
    for name, tensor in module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor), name


def test_strangers_are_not_recognised() -> None:
    assert recognised({"a.weight": (3, 3)}) is None
    blip = chiasm.new("blip")
    assert recognised({name: tuple(t.shape) for name, t in blip.module.state_dict().items()}) is None
