"""The pico language model's recipe: two million parameters learn to read an answer off the words before a question.

A LLaMA-type decoder (`language/decoder.py`) over a byte-level BPE, both made from WordNet's definitions, the packs'
captions, and generated scenes told in words (`data/text`). Next-token cross-entropy on what is said about a scene,
nothing on questions and scenes themselves; other text counts little. What made reading come about within minutes
instead of hours, measured in `docs/pico_text.md`: Muon, one scene at the beginning of each row with many questions
after it, and many small steps. The words of a scene are blurred by noise, because a picture's tokens will be, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.recipes.run import Run, TaskConfig, recipe
from chiasm.training.config import Cosine, Group, Muon

if TYPE_CHECKING:
    import torch

    from chiasm.data.text.rows import Packed, Rows
    from chiasm.language.decoder import Decoder, DecoderConfig
    from chiasm.processing.tokenizer import Tokenizer
    from chiasm.recipes.running.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoText(TaskConfig):
    """The training.

    Attributes:
        vocab_size: pieces, control tokens included.
        hidden_dim, num_layers, num_heads, mlp_dim, context: of the decoder.
        length: a batch has `batch_size` times as many tokens, in rows as long as their documents.
        first: batches that hold nothing but lookups, not blurred, before everything is mixed.
        blur: most noise on the words of a scene, in standard deviations of the embeddings.
        scenes_seed: added to the run's seed where scenes are made.
        definitions, scenes, quizzes, lookups, checks, drills, bindings: what the text is made of; see
            `data.text.documents`.
    """

    vocab_size: int = 2048
    hidden_dim: int = 192
    num_layers: int = 4
    num_heads: int = 4
    mlp_dim: int = 512
    context: int = 1024
    length: int = 192
    first: int = 500
    blur: float = 0.4
    scenes_seed: int = 0
    definitions: int = 8000
    scenes: int = 30000
    quizzes: int = 26000
    lookups: int = 20000
    checks: int = 0
    drills: int = 4000
    bindings: int = 10000

    def decoder(self) -> DecoderConfig:
        """The decoder's configuration."""
        from chiasm.models.assembly import llama

        sizes = (self.vocab_size, self.hidden_dim, self.num_layers, self.num_heads, self.num_heads, self.mlp_dim)
        return replace(llama(*sizes, context=self.context, tie_embeddings=True), qkv_bias=True)

    def counts(self) -> dict[str, int]:
        """How many documents there are of each kind."""
        kinds = ("definitions", "scenes", "quizzes", "lookups", "checks", "drills", "bindings")
        return {kind: getattr(self, kind) for kind in kinds}

    def build(self, run: Run, out: Path) -> Task:
        import torch

        from chiasm.data.text.rows import Batches
        from chiasm.processing.tokenizer import Tokenizer
        from chiasm.recipes.running.task import Task
        from chiasm.training.feed import Numbered
        from chiasm.weights.checkpoint import load_state, open_checkpoint
        from chiasm.weights.layouts import native

        torch.manual_seed(run.seed)
        module = self.decoder().build()
        start_copying(module)
        earlier = None
        if run.init_from is not None:
            folder = Path(run.init_from) / "model"
            load_state(module, open_checkpoint(folder), native.table(module.config), dtype=torch.float32)
            earlier = Tokenizer.from_folder(folder)
        tokenizer, packed = corpus(self, run.seed + self.scenes_seed, out, earlier)
        tokens = run.batch_size * self.length
        mixed = Batches(packed, tokens, run.seed)
        lookups = Batches(packed, tokens, run.seed, packed.lookups()) if self.first else mixed

        def batch(number: int) -> Rows:
            if number >= self.first:
                return mixed(number - self.first)
            rows = lookups(number)
            return replace(rows, shown=torch.zeros_like(rows.shown))

        def finish(folder: Path) -> None:
            export(module, tokenizer, folder / "model")

        feed = Numbered(batch, f"pico-text {self} {run.seed} {run.batch_size}")
        return Task(module=module, objective=WeighedText(self.blur), feed=feed, finish=finish)


class WeighedText:
    """Next-token cross-entropy, some tokens weighing more than others, over words that are shown a little blurred.

    Args:
        blur: most noise on the embeddings of what is shown, in their standard deviations; each row draws its own.
    """

    def __init__(self, blur: float = 0.0) -> None:
        self.blur = blur

    def __call__(self, module: Any, batch: Rows) -> dict[str, torch.Tensor]:
        """The mean over weights; `answers` is the mean over tokens said about a scene, `right` how many were likeliest.

        Logits are made only where something is learned: three tokens in four are given.
        """
        import torch.nn.functional as F
        from torch.nn.attention import SDPBackend, sdpa_kernel

        ids, weights = batch.ids, batch.weights[:, 1:].flatten()
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel's backward pass is slow in bfloat16
            hidden = module(self._blurred(module.embed_tokens(ids[:, :-1]), batch.shown[:, :-1]))
        learned = weights.nonzero()[:, 0]
        weights, targets = weights[learned], ids[:, 1:].flatten()[learned]
        logits = module.logits(hidden.flatten(0, 1)[learned]).float()  # (n, V)
        losses = F.cross_entropy(logits, targets, reduction="none")
        answers = weights > 1
        count = answers.sum().clamp(min=1)
        right = (logits.detach().argmax(-1) == targets)[answers].sum() / count
        return {
            "loss": (losses * weights).sum() / weights.sum().clamp(min=1),
            "answers": losses.detach()[answers].sum() / count,
            "right": right,
        }

    def _blurred(self, embeds: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        import torch

        if not self.blur:
            return embeds
        amount = torch.rand(len(embeds), 1, 1) * self.blur * embeds.detach().std()
        return embeds + torch.randn_like(embeds) * amount * shown[..., None]

    def weight(self, batch: Rows) -> float:
        """What the mean is over."""
        return float(batch.weights[:, 1:].sum())

    def after_step(self, module: Any, step: int) -> None:
        """Nothing moves."""


def start(module: Decoder) -> None:
    """Draw weights: 0.02 everywhere, less for what adds to the residual stream (Radford et al. 2019, §2.3)."""
    import torch
    from torch import nn

    depth = 2 * module.config.num_layers
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                continue
            ends = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=0.02 / depth**0.5 if ends else 0.02)


def start_copying(module: Decoder) -> None:
    """Draw weights with which a decoder copies from the beginning, as trained ones do (Trockman & Kolter 2023, §3).

    As `start`, except attention. The first layer's head h looks h + 1 tokens back: its
    biases turn with the positions and agree best there. The second layer's heads compare a token with what those heads
    brought to the others, and fetch what they find; later ones compare tokens with tokens. All of it goes on learning.
    """
    import torch

    config = module.config
    width, size, heads = config.hidden_dim, config.head_width, range(config.num_heads)
    assert config.qkv_bias and config.num_kv_heads == config.num_heads
    frequencies = module._rotary_frequencies(torch.device("cpu"), 0)  # (C/2,)
    fast, slow = (frequencies > 0.04).float(), (frequencies < 0.1).float().repeat(2)[:, None] * 0.9 + 0.1
    sharp = (4 * size**0.5 / float((fast * (1 - frequencies.cos())).sum())) ** 0.5  # a neighbour scores 4 less

    def rotation() -> torch.Tensor:
        return torch.linalg.qr(torch.randn(width, width))[0]

    start(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        embedding = module.embed_tokens.weight.normal_(std=0.03)
        share = 0.5 * float(embedding.norm(dim=1).mean()) / size**0.5  # a head adds half as much as a token has
        read, write = rotation(), rotation()
        for layer, block in enumerate(module.blocks):
            attn: Any = block.attn
            query, value = rotation(), rotation()
            for head in heads:
                rows = slice(head * size, (head + 1) * size)
                if layer == 0:
                    attn.q_proj.weight[rows] *= 0.3
                    attn.k_proj.weight[rows] *= 0.3
                    turned = -frequencies * (head + 1)
                    attn.q_proj.bias[rows] = torch.cat((fast * turned.cos(), fast * turned.sin())) * sharp
                    attn.k_proj.bias[rows] = torch.cat((fast, torch.zeros_like(fast))) * sharp
                    attn.v_proj.weight[rows], attn.o_proj.weight[:, rows] = read[rows], write[rows].T * share
                    continue
                asks, has = (read, write) if layer == 1 else (0.7 * query, 0.7 * query)
                attn.q_proj.weight[rows], attn.k_proj.weight[rows] = asks[rows] * slow, has[rows] * slow
                attn.v_proj.weight[rows], attn.o_proj.weight[:, rows] = value[rows], value[rows].T * share


def corpus(config: PicoText, seed: int, out: Path, earlier: Tokenizer | None = None) -> tuple[Tokenizer, Packed]:
    """The tokenizer and the documents in tokens, made once for a run.

    Args:
        config, seed: what they depend on.
        out: the run's folder.
        earlier: the tokenizer of the training that is gone on with; None = one is made.
    """
    import numpy as np
    from tokenizers import Tokenizer as Backend

    from chiasm.data.text.documents import documents, spellings
    from chiasm.data.text.rows import Packed
    from chiasm.data.text.tokens import encode, learn_tokenizer, wrapped

    folder = out / "corpus"
    names = [folder / f"{name}.npy" for name in ("ids", "weights", "shown", "ends")]
    if not names[-1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = documents(seed, config.counts())
        tokenizer = earlier or learn_tokenizer(found, config.vocab_size, spellings())
        tokenizer.backend.save(str(folder / "tokenizer.json"))
        known: dict[str, list[int]] = {}
        made = [encode(document, tokenizer, known) for document in found]
        packed = Packed.of([document for document in made if len(document.ids) <= config.context])
        for name in names:
            np.save(name, getattr(packed, name.stem))
    tokenizer = wrapped(Backend.from_file(str(folder / "tokenizer.json")))
    return tokenizer, Packed(*(np.load(name) for name in names))


def export(module: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what the package bundles: float16 weights, the decoder's configuration, the tokenizer."""
    from safetensors.torch import save_file

    from chiasm.core.config import to_dict
    from chiasm.processing.miniature import CHATML_TEMPLATE

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(to_dict(module.config), indent=2) + "\n")
    tokenizer.chat_template = CHATML_TEMPLATE
    tokenizer.save(folder)


@recipe(family="pico-text", scale="pico", needs="WordNet and the packs of pictures, from Debian's packages")
def pico_text_lookups() -> Run:
    """The first half of the bundled pico language model's training: finding what stands beside a word."""
    return Run(
        task=PicoText(),
        steps=2000,
        batch_size=8,
        checkpoint_every=500,
        optimizer=Muon(betas=(0.9, 0.95)),
        schedule=Cosine(warmup=50, final_share=0.5),
        groups=(Group(learning_rate=1e-3, weight_decay=0.01),),
        bf16=True,
    )


@recipe(family="pico-text", scale="pico", needs="WordNet and the packs of pictures, from Debian's packages")
def pico_text() -> Run:
    """The bundled pico language model: then what is there and what isn't, and everything mixed."""
    return replace(
        pico_text_lookups(),
        task=PicoText(
            scenes_seed=1,
            first=300,
            definitions=3000,
            scenes=14000,
            quizzes=12000,
            lookups=2000,
            checks=10000,
            drills=1000,
            bindings=5000,
        ),
        after="pico_text_lookups",
        steps=2000,
        schedule=Cosine(warmup=20, final_share=0.02),
    )
