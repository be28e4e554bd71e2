"""The pico language model's recipe: five million parameters learn to read an answer off the words before a question.

A LLaMA-type decoder (`language/decoder.py`) over a byte-level BPE of 4,096 pieces, both made from WordNet's
definitions, the packs' captions, and generated scenes told in words (`data/text`). Next-token cross-entropy, in which
a token of an answer about a picture weighs eight times as much as another. Rows are cut from one long line of
documents; every eighth batch has rows four times as long, so that all positions up to the context's length are learned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.recipes.run import Run, TaskConfig, recipe
from chiasm.training.config import Cosine, Group

if TYPE_CHECKING:
    import torch

    from chiasm.language.decoder import Decoder, DecoderConfig
    from chiasm.processing.tokenizer import Tokenizer
    from chiasm.recipes.running.task import Task

LONG = 4  # how many times longer every eighth batch's rows are


@dataclass(frozen=True, kw_only=True, slots=True)
class PicoText(TaskConfig):
    """The training.

    Attributes:
        vocab_size: pieces, control tokens included.
        hidden_dim, num_layers, num_heads, num_kv_heads, mlp_dim: of the decoder.
        length: tokens of a row.
        definitions, scenes, quizzes, drills: what the text is made of; see `data.text.documents`.
    """

    vocab_size: int = 4096
    hidden_dim: int = 256
    num_layers: int = 5
    num_heads: int = 4
    num_kv_heads: int = 2
    mlp_dim: int = 704
    length: int = 256
    definitions: int = 8000
    scenes: int = 10000
    quizzes: int = 6000
    drills: int = 14000

    def decoder(self) -> DecoderConfig:
        """The decoder's configuration."""
        from chiasm.models.assembly import llama

        return llama(
            self.vocab_size,
            self.hidden_dim,
            self.num_layers,
            self.num_heads,
            self.num_kv_heads,
            self.mlp_dim,
            context=LONG * self.length,
            tie_embeddings=True,
        )

    def build(self, run: Run, out: Path) -> Task:
        import torch

        from chiasm.recipes.running.task import Task
        from chiasm.training.feed import Numbered

        torch.manual_seed(run.seed)
        module = self.decoder().build()
        start(module)
        tokenizer, ids, weights = corpus(self, run.seed, out)

        def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            rows, length = run.batch_size, self.length
            if number % 8 == 7:
                rows, length = max(1, rows // LONG), length * LONG
            generator = torch.Generator().manual_seed(run.seed * 1_000_003 + number)
            starts = torch.randint(len(ids) - length, (rows, 1), generator=generator)
            places = starts + torch.arange(length + 1)  # (B, T + 1)
            return ids[places].long(), weights[places].float()

        def finish(folder: Path) -> None:
            export(module, tokenizer, folder / "model")

        feed = Numbered(batch, f"pico-text {self} {run.seed} {run.batch_size}")
        return Task(module=module, objective=WeighedText(), feed=feed, finish=finish)


class WeighedText:
    """Next-token cross-entropy, some tokens weighing more than others."""

    def __call__(self, module: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over weights; `text` is the plain mean over tokens."""
        import torch.nn.functional as F

        ids, weights = batch
        hidden = module(module.embed_tokens(ids[:, :-1]))  # (B, T, D)
        losses = F.cross_entropy(module.logits(hidden).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = weights[:, 1:].flatten()
        answers = weights > 1
        told = {"text": losses.detach().mean(), "answers": losses.detach()[answers].sum() / answers.sum().clamp(min=1)}
        return {"loss": (losses * weights).sum() / weights.sum(), **told}

    def weight(self, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        """What the mean is over."""
        return float(batch[1][:, 1:].sum())

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


def corpus(config: PicoText, seed: int, out: Path) -> tuple[Tokenizer, torch.Tensor, torch.Tensor]:
    """The tokenizer and the line of tokens, made once for a run.

    Args:
        config, seed: what they depend on.
        out: the run's folder.

    Returns:
        The tokenizer, (n,) ids and (n,) weights.
    """
    import numpy as np
    import torch
    from tokenizers import Tokenizer as Backend

    from chiasm.data.text.documents import documents, spellings
    from chiasm.data.text.tokens import learn_tokenizer, line_up, wrapped

    folder = out / "corpus"
    names = [folder / name for name in ("tokenizer.json", "ids.npy", "weights.npy")]
    if not names[-1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = documents(seed, config.definitions, config.scenes, config.quizzes, config.drills)
        tokenizer = learn_tokenizer(found, config.vocab_size, spellings())
        tokenizer.backend.save(str(names[0]))
        ids, weights = line_up(found, tokenizer)
        np.save(names[1], ids)
        np.save(names[2], weights)
    tokenizer = wrapped(Backend.from_file(str(names[0])))
    ids_line, weights_line = (torch.from_numpy(np.load(name).astype(np.int32)) for name in names[1:])
    return tokenizer, ids_line, weights_line


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
def pico_text() -> Run:
    """8 million tokens, about two hours on one free core; the bundled weights had 1 million (`docs/pico_text.md`)."""
    return Run(
        task=PicoText(),
        steps=4000,
        batch_size=8,
        checkpoint_every=100,
        schedule=Cosine(warmup=200, final_share=0.02),
        groups=(Group(learning_rate=1.5e-3, weight_decay=0.1),),
    )
