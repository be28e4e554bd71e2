"""Reading and writing beside transformers, plain and quantized: ``python benchmarks/inference.py [--only PARTS]``.

Both sides load the same folder (random weights; the reference in float32) and read the same tensors. Before anything is
timed their greedy tokens must be equal, in float32; quantized sides are timed against the same reference. The rows:
- quantized: the LLaVA of `benchmarks/speed.py` (SmolLM2-135M's size, 256 visual tokens) with 8 and 4 bits, reading and
  writing; CLIP ViT-B/32 with 8 bits in all layers, and the least cosine to float32's embeddings;
- half: the same LLaVA in bfloat16, beside the reference in float32 and in bfloat16, as loaded and as served (packed);
- shaped like Qwen2.5-VL, InternVL, BLIP-2 and IDEFICS, 576 wide and 12 layers deep: reading a prompt with pictures
  (four for IDEFICS), and writing after it, in float32 and with 8 bits.
Sides take turns; ratios are medians of neighbouring runs. `CPU time` is the same ratio of processor time.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import chiasm
from chiasm.core.registry import family
from chiasm.fusion.gated_cross_attention import visible_pictures
from chiasm.generation.decoding import generate
from chiasm.generation.limits import Limits
from chiasm.generation.sampling import Sampling
from chiasm.models.model import Model
from chiasm.models.packing import pack
from chiasm.weights.export import check_hf
from chiasm.weights.load import initialise, writer_for
from chiasm.weights.quantize import quantize

sys.path.insert(0, str(Path(__file__).parent))
import speed  # noqa: E402

WIDTH, LAYERS, HEADS, MLP, VOCAB = 576, 12, 9, 1536, 16384
NEW_TOKENS = 24
WORDS = "what is this, and that? " * 3
Side = speed.Side


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Noise, the same for a seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def shaped(name: str) -> Model:
    """A family's miniature with a language model of some size, and a larger picture."""
    config, processor = family(name).tiny()
    head = WIDTH // HEADS
    kv = HEADS if config.language.num_kv_heads == config.language.num_heads else 3
    # IDEFICS' published layout has the picture's slot as the last word: a larger vocabulary would move it
    words = config.language.vocab_size if name == "idefics" else VOCAB
    language = replace(
        config.language, vocab_size=words, hidden_dim=WIDTH, num_layers=LAYERS, num_heads=HEADS, num_kv_heads=kv,
        mlp_dim=MLP,
    )  # fmt: skip
    if name == "qwen2_5_vl":
        language = replace(language, rotary=replace(language.rotary, sections=(8, 12, 12)))
    changes: dict[str, Any] = {"language": language}
    if config.connector.output_dim is not None:
        changes["connector"] = replace(config.connector, output_dim=WIDTH)
    if name == "idefics":
        changes["gates"] = replace(config.gates, num_heads=HEADS, head_dim=head, mlp_dim=MLP)
    config = replace(config, **changes)
    return Model(initialise(config), processor, family(name), config, writer=writer_for(config), name=name)


def inputs(name: str, model: Model, batch: Any) -> dict[str, torch.Tensor]:
    """Our batch as the reference takes it."""
    given = {"input_ids": batch.input_ids, "attention_mask": torch.ones_like(batch.input_ids)}
    given["pixel_values"] = batch.pixel_values
    if name == "qwen2_5_vl":
        merge = model.config.vision.merge
        grids = [[1, plan.tokens[0] * merge, plan.tokens[1] * merge] for plan in batch.plans]
        given["image_grid_thw"] = torch.tensor(grids)
        given["mm_token_type_ids"] = (batch.input_ids == model.config.image_token_id).int()
    elif name == "idefics":
        seen = visible_pictures(batch.spans, batch.input_ids, model.config.end_id)[0]
        mask = torch.zeros(1, len(seen), len(batch.spans), dtype=torch.long)
        for column, number in enumerate(seen.tolist()):
            if number >= 0:
                mask[0, column, number] = 1
        given |= {"pixel_values": batch.pixel_values[None], "image_attention_mask": mask}
    return given


def family_rows(name: str, pictures: int, runs: int) -> dict[str, Any]:
    """Reading and writing of one family, in float32 and with 8 bits, beside the reference."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        made = shaped(name)
        made.save(folder)
        check_hf(
            folder, made
        )  # a layout that transformers can't read would leave it with random weights of another size
        reference = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
        sides = {"": chiasm.load(folder), " int8": chiasm.load(folder, quantize="int8")}
    model = sides[""]
    sizes = {"qwen2_5_vl": (112, 112), "internvl": (64, 96)}.get(name, (40, 40))
    parts: list[dict[str, Any]] = []
    for index in range(pictures):
        parts += [
            {"type": "image", "image": picture(index, *sizes)},
            {"type": "text", "text": "what is this, and that? " * 3},
        ]
    batch = model.processor([[{"role": "user", "content": parts}]])
    given = inputs(name, model, batch)

    def theirs(count: int) -> Side:
        def run() -> torch.Tensor:
            if name == "qwen2_5_vl":
                reference.model.rope_deltas = None
            out = reference.generate(
                **given, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            return out[0, -count:]

        return run

    def ours(side: Model, count: int) -> Side:
        limits = Limits(max_new_tokens=count, eos_ids=frozenset())
        return lambda: torch.tensor(
            generate(side.module, batch, speed.NoText(), limits, Sampling())[0].token_ids  # type: ignore[arg-type]
        )

    rows = {}
    for label, side in sides.items():
        rows |= two_rows(f"{name}{label}", lambda n, side=side: ours(side, n), theirs, runs, same=not label)
    return rows


def two_rows(
    name: str, ours: Callable[[int], Side], theirs: Callable[[int], Side], runs: int, *, same: bool
) -> dict[str, Any]:
    """Prefill, and a token after it, of both sides."""
    whole = timed(ours(NEW_TOKENS), theirs(NEW_TOKENS), runs, same=same)
    first = timed(ours(1), theirs(1), runs, same=same)
    ends = [statistics.median(pair[side] for pair in first) for side in range(4)]
    steps = [(a - ends[0], b - ends[1], c - ends[2], d - ends[3]) for a, b, c, d in whole]
    return {
        f"{name}: prefill": speed.summary(first, 1, "prompts/s"),
        f"{name}: decode": speed.summary(steps, NEW_TOKENS - 1, "tokens/s"),
    }


def timed(ours: Side, theirs: Side, runs: int, *, same: bool) -> list[speed.Taken]:
    """As `speed.compare`; a quantized side needn't give the same tokens."""
    with torch.inference_mode():
        if same:
            return speed.compare(ours, theirs, runs)
        ours(), theirs()
        return speed.alternate(ours, theirs, runs)


def quantized_rows(runs: int) -> dict[str, Any]:
    """LLaVA with 8 and 4 bits, CLIP with 8."""
    rows: dict[str, Any] = {}
    module, mine, reference = speed.llava_sides(256)
    rows |= two_rows("llava 256 tokens", mine, reference, runs, same=True)
    plain = module.language
    for how in ("int8", "int4"):
        module.language = copy.deepcopy(plain)
        quantize(module, how)
        rows |= two_rows(f"llava 256 tokens {how}", mine, reference, runs, same=False)
    clip, ours, theirs = speed.clip_sides()
    with torch.inference_mode():
        expected = ours()
        quantize(clip, "int8")
        cosine = torch.nn.functional.cosine_similarity(ours(), expected).min().item()
    row = speed.summary(timed(ours, theirs, runs, same=False), speed.PICTURES, "pictures/s")
    rows["clip_vit_b_32 int8: encoding"] = row | {"cosine": round(cosine, 5)}
    return rows


def half_rows(runs: int) -> dict[str, Any]:
    """LLaVA in bfloat16, beside both types of the reference."""
    rows: dict[str, Any] = {}
    for half in (False, True):
        module, mine, reference = speed.llava_sides(256, half)
        module.bfloat16()
        beside = "bfloat16" if half else "float32"
        rows |= two_rows(f"llava bfloat16 by {beside}", mine, reference, runs, same=False)
        if pack(module):
            rows |= two_rows(f"llava bfloat16 packed by {beside}", mine, reference, runs, same=False)
    return rows


def record(path: Path, rows: dict[str, Any]) -> None:
    """Replace rows of a JSON file, and keep its others unless another kind of processor measured them."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    processor = torch.backends.cpu.get_cpu_capability()
    rows = (kept["rows"] if kept.get("processor") == processor else {}) | rows
    path.write_text(json.dumps({"processor": processor, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--record", type=Path, help="a JSON file whose rows are replaced by what is measured now")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of both sides")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs of each figure")
    parser.add_argument(
        "--only", default="", help="parts, by commas: quantized, half, qwen2_5_vl, internvl, blip2, idefics"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "quantized": lambda: quantized_rows(options.runs),
        "half": lambda: half_rows(options.runs),
    }
    for name, pictures in (("qwen2_5_vl", 1), ("internvl", 1), ("blip2", 1), ("idefics", 4)):
        parts[name] = lambda name=name, pictures=pictures: family_rows(name, pictures, options.runs)
    chosen = [name for name in options.only.split(",") if name] or list(parts)
    start, rows = time.perf_counter(), {}
    for name in chosen:
        for title, row in parts[name]().items():
            rows[title] = row
            more = f"  cosine {row['cosine']}" if "cosine" in row else ""
            print(
                f"{title:44}{row['chiasm']:>10}{row['transformers']:>10} {row['unit']:11}{row['ratio']:>7}×"
                f"{row['processor_time_ratio']:>8}× CPU{more}",
                file=sys.stderr if options.json else sys.stdout,
                flush=True,
            )
    if options.record is not None:
        record(options.record, rows)
    if options.json:
        taken = round(time.perf_counter() - start)
        print(json.dumps({"threads": options.threads, "torch": torch.__version__, "seconds": taken, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
