"""BLIP's training step (contrast, matching, captions from one picture pass) beside the same losses run separately.

    python benchmarks/fusion_step.py

A tiny ViT (192 wide, 12 layers, 224 pixels), a BERT-small (512 wide, 4 layers), hard targets, no momentum copy. The
other side runs `transformers`' parts one loss after the other, each with a picture pass of its own, as scripts do that
train three heads. Interleaved, medians; forward and backward, no optimizer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F
from transformers import BlipConfig as TheirConfig
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

from chiasm.core.batch import Batch
from chiasm.models.blip import BlipConfig, text, tower
from chiasm.objectives.fusion import AlignAndFuse, WrittenText
from chiasm.weights.load import initialise

WIDTH, LAYERS, TEXT, DEPTH, VOCAB, JOINT = 192, 12, 512, 4, 30524, 256


def ours(batch: Batch) -> Callable[[], None]:
    """One step of this library."""
    language = text(VOCAB, TEXT, DEPTH, WIDTH, twin=True)
    config = BlipConfig(
        vision=replace(tower(224, WIDTH, LAYERS, 3)), language=language, encoder=True, decoder=True, embed_dim=JOINT,
        start_id=VOCAB - 2, match_id=VOCAB - 1,
    )  # fmt: skip
    module = initialise(config).train()
    objective = AlignAndFuse(text=WrittenText(), queue_size=None, momentum=None).build()

    def step() -> None:
        module.zero_grad()
        objective(module, batch)["loss"].backward()

    return step


def theirs(batch: Batch) -> Callable[[], None]:
    """The three losses over `transformers`' parts, one after the other."""
    config = TheirConfig(
        vision_config={"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 3, "image_size": 224,
                       "intermediate_size": 4 * WIDTH},
        text_config={"hidden_size": TEXT, "num_hidden_layers": DEPTH, "num_attention_heads": 8, "vocab_size": VOCAB,
                     "intermediate_size": 4 * TEXT, "encoder_hidden_size": WIDTH, "hidden_dropout": 0.0,
                     "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        image_text_hidden_size=JOINT,
    )  # fmt: skip
    judge, writer = BlipForImageTextRetrieval(config).train(), BlipForConditionalGeneration(config).train()
    pixels, ids, mask = batch.pixel_values, batch.input_ids, batch.attention_mask
    assert pixels is not None and ids is not None and mask is not None
    attend, count = mask.long(), len(ids)

    def step() -> None:
        judge.zero_grad()
        writer.zero_grad()
        seen = F.normalize(judge.vision_proj(judge.vision_model(pixels).last_hidden_state[:, 0]), dim=-1)
        read = judge.text_encoder(ids, attention_mask=attend).last_hidden_state[:, 0]
        scores = seen @ F.normalize(judge.text_proj(read), dim=-1).T / 0.07
        right = torch.arange(count)
        ((F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2).backward()
        weights = scores.detach().softmax(-1).fill_diagonal_(0)
        text_of, picture_of = torch.multinomial(weights, 1)[:, 0], torch.multinomial(weights.T + 1e-9, 1)[:, 0]
        states = judge.vision_model(pixels).last_hidden_state
        states = torch.cat((states, states[picture_of], states))
        said, shown = torch.cat((ids, ids, ids[text_of])), torch.cat((attend, attend, attend[text_of]))
        x = judge.text_encoder(said, attention_mask=shown, encoder_hidden_states=states).last_hidden_state
        labels = torch.cat((torch.ones(count), torch.zeros(2 * count))).long()
        F.cross_entropy(judge.itm_head(x[:, 0]), labels).backward()
        states = writer.vision_model(pixels).last_hidden_state
        logits = writer.text_decoder(ids, attention_mask=attend, encoder_hidden_states=states).logits
        wanted = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), label_smoothing=0.1).backward()

    return step


def main() -> None:
    """Both, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (args.batch, args.tokens))
    batch = Batch(pixel_values=torch.randn(args.batch, 3, 224, 224), input_ids=ids,
                  attention_mask=torch.ones_like(ids, dtype=torch.bool))  # fmt: skip
    steps, walls, works = {"ours": ours(batch), "theirs": theirs(batch)}, {}, {}
    for turn in range(args.rounds + 1):
        for name, step in steps.items():
            wall, work = time.perf_counter(), time.process_time()
            step()
            if turn:  # the first one warms up
                walls.setdefault(name, []).append(time.perf_counter() - wall)
                works.setdefault(name, []).append(time.process_time() - work)
    for title, found in (("wall", walls), ("processor", works)):
        one, other = median(found["ours"]), median(found["theirs"])
        print(f"{title} time of a step: ours {one:.3f} s, separate {other:.3f} s, ratio {other / one:.2f}")


if __name__ == "__main__":
    main()
