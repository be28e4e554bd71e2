"""One training step beside transformers and plain PyTorch, in one run: ``python benchmarks/training.py [--json]``.

Both sides hold the same random weights (fp32) and must give the same loss before anything is timed. A step is forward,
loss, backward and the optimizer's step (AdamW):
- CLIP ViT-B/32, 32 pictures and captions, everything learns;
- a LLaVA of SmolLM2-135M's size behind a small frozen tower, 8 conversations of mixed lengths with one picture each;
  the connector and the language model learn. They pad, as their processor does; we pack, and compute scores only
  where something is supervised.
Theirs is what their own documentation shows: the model's own loss, `torch.optim.AdamW`. Steps alternate between the two
sides; each figure is the median, the ratio the median of the ratios of neighbouring steps. `CPU time` is the same ratio
of processor time: the figure to read with ``--threads 1`` on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import Crop, ImagePlan
from chiasm.data.packing import pack
from chiasm.objectives.captioning import NextToken
from chiasm.objectives.pairs import InfoNCE
from chiasm.training.config import AdamW
from chiasm.weights.layouts import layout_for

Step = Callable[[], float]
Taken = tuple[float, float, float, float]  # seconds: ours, theirs; of processor time: ours, theirs
RATE, SIDE, PATCH = 1e-5, 112, 16


def same_weights(theirs: Any) -> Any:
    """Our model with the weights of theirs, through the published layout."""
    description = theirs.config.to_dict()
    layout = layout_for(description)
    config = layout.config_from(description)
    ours = config.build()
    ours.load_state_dict(layout.table(config).to_ours(theirs.state_dict()), strict=True)
    return ours


def step(module: torch.nn.Module, loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> Step:
    """One training step, which gives its loss."""

    def take() -> float:
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    return take


def optimizers(ours: torch.nn.Module, theirs: torch.nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """AdamW as our loop builds it, and as torch's default is, on what learns."""
    mine, other = ([p for p in each.parameters() if p.requires_grad] for each in (ours, theirs))
    [built] = AdamW(betas=(0.9, 0.999)).build([{"params": mine, "lr": RATE, "weight_decay": 0.01}])
    return built, torch.optim.AdamW(other, lr=RATE, weight_decay=0.01)


def clip(pairs: int) -> tuple[Step, Step]:
    """CLIP ViT-B/32: a step of ours and of theirs."""
    theirs = transformers.CLIPModel(transformers.CLIPConfig(projection_dim=512)).train()
    ours = same_weights(theirs).train()
    lengths = torch.randint(8, 24, (pairs,))
    ids = torch.randint(1, 49000, (pairs, int(lengths.max())))
    attend = torch.arange(ids.shape[1]) < lengths[:, None]
    ids[~attend] = 49407
    ids[torch.arange(pairs), lengths - 1] = 49407
    pixels = torch.randn(pairs, 3, 224, 224)
    batch, objective = Batch(ids, attend, pixels), InfoNCE().build()
    mine, other = optimizers(ours, theirs)

    def reference() -> torch.Tensor:
        return theirs(input_ids=ids, attention_mask=attend.long(), pixel_values=pixels, return_loss=True).loss

    return step(ours, lambda: objective(ours, batch)["loss"], mine), step(theirs, reference, other)


def llava(rows: int) -> tuple[Step, Step]:
    """A LLaVA with a 135M language model: a step of ours and of theirs."""
    text = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5,
        tie_word_embeddings=True, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=49151, tie_word_embeddings=True
    )
    theirs = transformers.LlavaForConditionalGeneration(config).train()
    ours = same_weights(theirs).train()
    theirs.model.vision_tower.requires_grad_(False)
    ours.vision.requires_grad_(False)
    batch = conversations(rows)
    objective = NextToken().build()
    mine, other = optimizers(ours, theirs)

    def reference() -> torch.Tensor:
        return theirs(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            pixel_values=batch.pixel_values,
            labels=batch.labels,
        ).loss

    def packed() -> torch.Tensor:
        return objective(ours, pack(batch, 512))["loss"]

    return step(ours, packed, mine), step(theirs, reference, other)


def conversations(rows: int) -> Batch:
    """A padded batch: a picture, a question and an answer of 10 to 120 tokens a row, the answer supervised."""
    slots = (SIDE // PATCH) ** 2
    answers = torch.linspace(10, 120, rows).long().tolist()
    length = slots + 20 + max(answers)
    ids = torch.randint(1, 49000, (rows, length))
    attend, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, -100)
    spans, plans = [], []
    crop = Crop(resized=(SIDE, SIDE), offset=(0, 0), size=(SIDE, SIDE))
    for row, answer in enumerate(answers):
        start = length - slots - 20 - answer  # padded on the left
        attend[row, start:] = True
        ids[row, :start] = 0
        ids[row, start + 4 : start + 4 + slots] = 49151
        labels[row, -answer:] = ids[row, -answer:]
        spans.append(ImageSpan(row, start + 4, start + 4 + slots))
        plans.append(ImagePlan((SIDE, SIDE), (crop,), tokens=(SIDE // PATCH,) * 2, num_tokens=slots))
    return Batch(ids, attend, torch.randn(rows, 3, SIDE, SIDE), plans, spans, labels)


def compare(ours: Step, theirs: Step, runs: int) -> list[Taken]:
    """Check that both sides' first losses agree, then time steps in turns."""
    first = ours(), theirs()
    assert abs(first[0] - first[1]) < 1e-4 * abs(first[1]), f"losses {first[0]} and {first[1]}"
    pairs = []
    for run in range(runs):
        sides = [(0, ours), (1, theirs)] if run % 2 else [(1, theirs), (0, ours)]
        taken = [0.0] * 4
        for place, take in sides:
            start, busy = time.perf_counter(), time.process_time()
            take()
            taken[place], taken[place + 2] = time.perf_counter() - start, time.process_time() - busy
        pairs.append((taken[0], taken[1], taken[2], taken[3]))
    return pairs


def summary(pairs: list[Taken]) -> dict[str, Any]:
    """Medians of seconds a step, and of the ratios of neighbouring steps."""
    ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return {
        "chiasm": round(ours, 3),
        "transformers": round(theirs, 3),
        "ratio": round(statistics.median(pair[1] / pair[0] for pair in pairs), 3),
        "processor_time_ratio": round(statistics.median(pair[3] / pair[2] for pair in pairs), 3),
        "runs": len(pairs),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of both sides")
    parser.add_argument("--runs", type=int, default=5, help="pairs of steps of each figure")
    parser.add_argument("--pairs", type=int, default=32, help="pictures and captions of a CLIP step")
    parser.add_argument("--rows", type=int, default=8, help="conversations of a LLaVA step")
    parser.add_argument("--only", choices=("clip", "llava"), help="one figure alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    rows = {}
    if options.only != "llava":
        torch.manual_seed(0)
        rows["clip_vit_b_32"] = summary(compare(*clip(options.pairs), options.runs))
    if options.only != "clip":
        torch.manual_seed(0)
        rows["llava-shaped, 135M"] = summary(compare(*llava(options.rows), options.runs))
    if options.json:
        print(json.dumps({"threads": options.threads, "torch": torch.__version__, "seconds_a_step": rows}))
        return 0
    title = f"fp32, {options.threads} threads, seconds a step"
    print(f"{title:36}{'chiasm':>9}{'transformers':>14}{'ratio':>8}{'CPU time':>10}")
    for name, row in rows.items():
        speeds = f"{row['chiasm']:>9}{row['transformers']:>14}"
        print(f"{name:36}{speeds}{row['ratio']:>7}×{row['processor_time_ratio']:>9}×")
    return 0


if __name__ == "__main__":
    sys.exit(main())
