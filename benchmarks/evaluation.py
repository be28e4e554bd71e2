"""How fast scenes are evaluated with nano, beside a plain loop: ``python benchmarks/evaluation.py [--items N]``.

The plain loop is what people write: for each condition (seen, blind, swapped) the questions in their order, in batches,
pictures through the same tower and connector, then `transformers`' `generate` on the embeddings with the same language
model's weights, at whichever batch size is best for it. Ours asks the same: `evaluation.asking`, which asks equal
questions once, puts questions of like length together, and lets finished replies leave the batch.

Runs alternate. Both wall-clock and processor time are told; with other work on the machine read the latter. Replies
are compared first: on equal weights they must be equal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import chiasm
from chiasm.evaluation.asking import Asked, ask_all, plan
from chiasm.evaluation.controls import CONDITIONS
from chiasm.evaluation.journal import Journal
from chiasm.evaluation.predictor import ModelPredictor
from chiasm.evaluation.protocol import Source
from chiasm.evaluation.tasks import tasks

NAMES = {
    "attn": "self_attn", "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
}  # fmt: skip


def twin(model: Any) -> transformers.LlamaForCausalLM:
    """transformers' model with nano's language weights."""
    shape = model.module.language.config
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_dim,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        intermediate_size=shape.mlp_dim,
        rms_norm_eps=shape.norm_eps,
        max_position_embeddings=shape.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rotary.theta},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        other = transformers.LlamaForCausalLM(config)
    other.to_empty(device="cpu")
    tensors = {}
    for name, tensor in model.module.language.state_dict().items():
        for ours, theirs in (*NAMES.items(), ("blocks", "layers")):
            name = ".".join(theirs if part == ours else part for part in name.split("."))
        tensors[f"model.{name}"] = tensor.contiguous()
    missing, unexpected = other.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    other.tie_weights()
    other.model.rotary_emb = type(other.model.rotary_emb)(config)  # its buffers are in no state dict
    return other.eval()


@torch.inference_mode()
def plain_loop(model: Any, other: Any, asked: Asked, batch_size: int, tokens: int) -> dict[str, list[str]]:
    """Replies of every condition, batch by batch in the order of the items."""
    found: dict[str, list[str]] = {}
    tokenizer = model.processor.tokenizer
    for condition in CONDITIONS:
        found[condition] = []
        conversations = [request.conversation for request in asked.requests[condition]]
        for at in range(0, len(conversations), batch_size):
            batch = model.processor(conversations[at : at + batch_size])
            ids = other.generate(
                inputs_embeds=model.module.embed(batch),
                attention_mask=batch.attention_mask.long(),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=sorted(tokenizer.eos_ids),
                pad_token_id=tokenizer.pad_id,
            )
            found[condition] += [tokenizer.decode(row.tolist()) for row in ids]
    return found


def ours(model: Any, asked: Asked, batch_size: int) -> dict[str, list[str]]:
    """Replies of every condition, through a journal."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "outputs.jsonl")
        ask_all(tasks()["scenes"], asked, ModelPredictor(model, batch_size), journal, batch_size, lambda *_: None)
        return {c: [journal[request.key] for request in asked.requests[c]] for c in CONDITIONS}


def timed(run: Any, *words: Any) -> tuple[Any, float, float]:
    """What it gave, seconds, and seconds of processor time."""
    wall, busy = time.perf_counter(), time.process_time()
    found = run(*words)
    return found, time.perf_counter() - wall, time.process_time() - busy


def measure(items: int, sizes: Sequence[int], batch_size: int) -> dict[str, Any]:
    """Both sides, alternating."""
    model, task = chiasm.load("nano"), tasks()["scenes"]
    other = twin(model)
    asked = plan(task, task.load(Source(limit=items)).items)
    every = sum(len(asked.requests[c]) for c in CONDITIONS)
    warm = Asked(items=asked.items[:4], requests={c: asked.requests[c][:4] for c in CONDITIONS}, faults=())
    plain_loop(model, other, warm, 4, task.max_new_tokens)
    ours(model, warm, 4)
    theirs, replies = {}, {}
    for size in sizes:
        replies[size], *theirs[size] = timed(plain_loop, model, other, asked, size, task.max_new_tokens)
    mine, *own = timed(ours, model, asked, batch_size)
    best = min(theirs, key=lambda size: theirs[size][1])
    same = sum(a.strip() == b.strip() for c in CONDITIONS for a, b in zip(mine[c], replies[best][c], strict=True))
    return {
        "items": items,
        "questions": every,
        "equal_replies": same,
        "plain_loop": {str(size): {"seconds": s, "processor_seconds": p} for size, (s, p) in theirs.items()},
        "best_batch_size": best,
        "ours": {"batch_size": batch_size, "seconds": own[0], "processor_seconds": own[1]},
        "ratio": theirs[best][0] / own[0],
        "processor_ratio": theirs[best][1] / own[1],
    }


def main() -> None:
    """Print the figures, or one JSON document with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--sizes", default="8,16,32", help="batch sizes that the plain loop is tried at")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.items, [int(size) for size in options.sizes.split(",")], options.batch_size)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['questions']} questions, {found['equal_replies']} replies equal")
    for size, taken in found["plain_loop"].items():
        print(
            f"plain loop, batch {size:>3}: {taken['seconds']:7.1f} s, {taken['processor_seconds']:7.1f} s of processor"
        )
    taken = found["ours"]
    busy = taken["processor_seconds"]
    print(f"ours, batch {taken['batch_size']:>9}: {taken['seconds']:7.1f} s, {busy:7.1f} s of processor")
    print(f"ratio {found['ratio']:.2f}, of processor time {found['processor_ratio']:.2f}")


if __name__ == "__main__":
    main()
