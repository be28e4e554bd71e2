"""Speed beside transformers, in one process and alternating: ``python benchmarks/speed.py [--json] [--threads N]``.

Both sides hold the same random weights (fp32) and must give the same numbers before anything is timed:
- pictures: CLIP ViT-B/32, batches of 16 encoded to embeddings;
- decoding: LLaVA-shaped, a language model of SmolLM2-135M's size behind a small vision tower, one picture and a short
  prompt, greedy. `decode` is the time a token after the first takes: the difference between long and short replies.
Runs alternate between the two sides, so that other work on the machine disturbs both; each figure is the median, and
the ratio is the median of the ratios of neighbouring runs. `CPU time` is the same ratio of processor time: the figure
to read with ``--threads 1`` on a machine that does other work too. Import times are the best of five processes, less
that of ``python -c pass``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.plan import Crop, ImagePlan
from chiasm.generation.decoding import generate
from chiasm.generation.limits import Limits
from chiasm.generation.sampling import Sampling
from chiasm.language.decoder import Decoder
from chiasm.nn.storage import column_major
from chiasm.weights.layouts import layout_for

Side = Callable[[], torch.Tensor]
Taken = tuple[float, float, float, float]  # seconds: ours, theirs; of processor time: ours, theirs
PICTURES, NEW_TOKENS, TEXT_TOKENS = 16, 48, 32


class NoText:
    """Stands where a tokenizer does; neither side turns ids into text here."""

    def stream(self) -> NoText:
        """A decoder of ids that come one at a time."""
        return self

    def push(self, index: int) -> str:
        """Take one id."""
        return ""

    def finish(self) -> str:
        """Take the end."""
        return ""


def same_weights(theirs: Any) -> Any:
    """Our model with the weights of theirs, through the published layout."""
    description = theirs.config.to_dict()
    layout = layout_for(description)
    config = layout.config_from(description)
    ours = config.build().eval()
    ours.load_state_dict(layout.table(config).to_ours(theirs.state_dict()), strict=True)
    for part in ours.modules():
        if isinstance(part, Decoder):
            column_major(part)  # as `chiasm.load` does
    return ours


def clip_sides() -> tuple[Any, Side, Side]:
    """CLIP ViT-B/32: our module, and ours and theirs as functions to time."""
    theirs = transformers.CLIPModel(transformers.CLIPConfig(projection_dim=512)).eval()
    ours = same_weights(theirs)
    pixels = torch.randn(PICTURES, 3, 224, 224)

    def reference() -> torch.Tensor:
        features = theirs.get_image_features(pixel_values=pixels)
        features = getattr(features, "pooler_output", features)
        return features / features.norm(dim=-1, keepdim=True)

    return ours, lambda: ours.embed_images(pixels), reference


def llava_shaped(image: int = 112, layers: int = 30) -> tuple[Any, Any]:
    """A LLaVA with a language model of SmolLM2-135M's size: ours and theirs, the same random weights.

    Args:
        image: side of its pictures in pixels; patches of 16.
        layers: of the language model.
    """
    torch.manual_seed(0)
    text = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5,
        tie_word_embeddings=True, eos_token_id=None, pad_token_id=0, initializer_range=0.04,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=image,
        patch_size=16,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=49151, tie_word_embeddings=True
    )
    theirs = transformers.LlavaForConditionalGeneration(config).eval()
    return same_weights(theirs), theirs


def llava_sides(side: int = 112, half: bool = False) -> tuple[Any, Callable[[int], Side], Callable[[int], Side]]:
    """A LLaVA with a 135M language model, a prompt and a picture.

    Args:
        side: pixels of the picture's side.
        half: the reference computes in bfloat16.

    Returns:
        Our module; ours and theirs, each from a number of new tokens to a function to time that gives their ids.
    """
    ours, theirs = llava_shaped(side)
    theirs = theirs.bfloat16() if half else theirs
    grid = side // 16
    slots = grid**2
    ids = torch.randint(1, 49000, (1, slots + TEXT_TOKENS))
    ids[0, 8 : 8 + slots] = 49151
    pixels, attend = torch.randn(1, 3, side, side), torch.ones_like(ids)
    crop = Crop(resized=(side, side), offset=(0, 0), size=(side, side))
    plan = ImagePlan(source=(side, side), crops=(crop,), tokens=(grid, grid), num_tokens=slots)
    batch = Batch(ids, attend.bool(), pixels, (plan,), (ImageSpan(0, 8, 8 + slots),))

    def mine(count: int) -> Side:
        limits = Limits(max_new_tokens=count, eos_ids=frozenset())
        return lambda: torch.tensor(generate(ours, batch, NoText(), limits, Sampling())[0].token_ids)

    def reference(count: int) -> Side:
        given = {"input_ids": ids, "attention_mask": attend, "max_new_tokens": count}
        given["pixel_values"] = pixels.bfloat16() if half else pixels
        return lambda: theirs.generate(**given, do_sample=False)[0, ids.shape[1] :]

    return ours, mine, reference


@torch.inference_mode()
def compare(ours: Side, theirs: Side, runs: int) -> list[Taken]:
    """Check that both sides agree, then time them in turns.

    Args:
        ours, theirs: what to time.
        runs: pairs of runs after one warm-up each.

    Returns:
        One `Taken` a run.
    """
    torch.testing.assert_close(ours(), theirs(), atol=1e-4, rtol=1e-4)
    return alternate(ours, theirs, runs)


def alternate(ours: Side, theirs: Side, runs: int) -> list[Taken]:
    """Time both sides in turns, the one that begins changing; both are warm."""
    pairs = []
    for run in range(runs):
        sides = [(0, ours), (1, theirs)] if run % 2 else [(1, theirs), (0, ours)]
        taken = [0.0] * 4
        for place, side in sides:
            start, busy = time.perf_counter(), time.process_time()
            side()
            taken[place], taken[place + 2] = time.perf_counter() - start, time.process_time() - busy
        pairs.append((taken[0], taken[1], taken[2], taken[3]))
    return pairs


def summary(pairs: list[Taken], work: int, unit: str) -> dict[str, Any]:
    """Medians and their ratio; `work` units are done in one run."""
    ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    busy = statistics.median(pair[3] / pair[2] for pair in pairs)
    return {
        "unit": unit,
        "chiasm": round(work / ours, 2),
        "transformers": round(work / theirs, 2),
        "ratio": round(ratio, 3),
        "processor_time_ratio": round(busy, 3),
        "runs": len(pairs),
    }


def start_seconds(*words: str) -> float:
    """Best of five wall-clock times of a python process, less the best of a bare one."""

    def best(arguments: tuple[str, ...]) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            taken.append(time.perf_counter() - start)
        return min(taken)

    return best(words) - best(("-c", "pass"))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of both sides")
    parser.add_argument("--runs", type=int, default=9, help="pairs of runs of each figure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()

    rows = {"clip_vit_b_32 encoding": summary(compare(*clip_sides()[1:], options.runs), PICTURES, "pictures/s")}
    _, mine, theirs = llava_sides()
    whole = compare(mine(NEW_TOKENS), theirs(NEW_TOKENS), options.runs)
    first = compare(mine(1), theirs(1), options.runs)
    rows["llava-shaped reply"] = summary(whole, NEW_TOKENS, "tokens/s")
    rows["llava-shaped prefill"] = summary(first, 1, "prompts/s")
    ends = [statistics.median(pair[side] for pair in first) for side in range(4)]
    steps = [(a - ends[0], b - ends[1], c - ends[2], d - ends[3]) for a, b, c, d in whole]
    rows["llava-shaped decode"] = summary(steps, NEW_TOKENS - 1, "tokens/s")
    starts = {
        "import chiasm": round(start_seconds("-c", "import chiasm"), 3),
        "chiasm --help": round(start_seconds("-m", "chiasm", "--help"), 3),
    }
    if options.json:
        print(json.dumps({"threads": options.threads, "torch": torch.__version__, "speed": rows, "seconds": starts}))
        return 0
    title = f"fp32, {options.threads} threads, {options.runs} runs"
    print(f"{title:26}{'chiasm':>12}{'transformers':>14}{'ratio':>8}{'CPU time':>10}")
    for name, row in rows.items():
        speeds = f"{row['chiasm']:>12}{row['transformers']:>14}"
        print(f"{name:26}{speeds}{row['ratio']:>7}×{row['processor_time_ratio']:>9}× {row['unit']}")
    for name, seconds in starts.items():
        print(f"{name:26}{seconds:>12} s over a bare python")
    return 0


if __name__ == "__main__":
    sys.exit(main())
