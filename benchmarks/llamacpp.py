"""Reading and writing beside llama.cpp: ``python benchmarks/llamacpp.py [--runs 5] [--json]``.

A language model of SmolLM2-135M's size with random weights, inside a LLaVA, goes through our own export to GGUF in
f32, f16 and q8_0; llama.cpp reads the text's file. Both sides get the same 288 tokens and write greedily, one thread
each, in turns; ours in float32, in bfloat16 as served (packed) and with 8 bits. In float32 both must write the same
tokens before anything is timed. Pictures aren't part of it: llama.cpp reads them through another library.

Every side is timed beside llama.cpp's file of the same size of numbers. The peer is no part of the project's
environments: `pip install llama-cpp-python` builds it (a C++ compiler and cmake); without it nothing is measured.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from chiasm.core.batch import Batch
from chiasm.core.registry import family
from chiasm.generation.decoding import generate
from chiasm.generation.limits import Limits
from chiasm.generation.sampling import Sampling
from chiasm.models.model import Model
from chiasm.models.packing import pack
from chiasm.nn.storage import column_major
from chiasm.weights.export import to_gguf
from chiasm.weights.load import initialise, writer_for
from chiasm.weights.quantize import quantize

sys.path.insert(0, str(Path(__file__).parent))
import inference  # noqa: E402
import speed  # noqa: E402

PROMPT, VOCAB = 288, 49152
Side = speed.Side


def smol() -> Model:
    """A LLaVA whose language model has SmolLM2-135M's size."""
    torch.manual_seed(0)
    config, processor = family("llava").tiny()
    language = replace(
        config.language, vocab_size=VOCAB, hidden_dim=576, num_layers=30, num_heads=9, num_kv_heads=3, mlp_dim=1536,
        tie_embeddings=True,
    )  # fmt: skip
    config = replace(config, language=language, connector=replace(config.connector, output_dim=576))
    return Model(initialise(config), processor, family("llava"), config, writer=writer_for(config), name="llava")


def llama_side(file: Path, ids: list[int], own_order: bool) -> Callable[[int], Side]:
    """llama.cpp: from a number of new tokens to a function that gives them.

    Args:
        file: its text model.
        ids: the prompt.
        own_order: it may bring matrices into an order of its own, AMX's among them.
    """
    import llama_cpp

    if not own_order:
        llama_cpp.llama_cpp.llama_model_default_params = _with_plain_order(llama_cpp.llama_model_default_params)
    sizes = {"n_ctx": 512, "n_batch": 512, "n_ubatch": 512}
    peer = llama_cpp.Llama(str(file), n_threads=1, n_threads_batch=1, verbose=False, **sizes)

    def run(count: int) -> torch.Tensor:
        peer.reset()
        drawn = peer.generate(ids, temp=0.0, reset=False)
        return torch.tensor([next(drawn) for _ in range(count)])

    return lambda count: lambda: run(count)


def _with_plain_order(defaults: Callable[[], Any]) -> Callable[[], Any]:
    def changed() -> Any:
        given = defaults()
        given.use_extra_bufts = False  # `Llama` has no argument for it
        return given

    return changed


def our_side(module: Any, ids: list[int]) -> Callable[[int], Side]:
    """Ours: the same."""
    batch = Batch(torch.tensor([ids]), None)

    def run(count: int) -> torch.Tensor:
        limits = Limits(max_new_tokens=count, eos_ids=frozenset())
        return torch.tensor(generate(module, batch, speed.NoText(), limits, Sampling())[0].token_ids)

    return lambda count: lambda: run(count)


def measure(runs: int, own_order: bool) -> dict[str, Any]:
    """All rows."""
    model = smol()
    ids = torch.randint(1, 49000, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        files = {}
        for kind in ("f32", "f16", "q8_0"):
            folder = Path(place) / kind
            to_gguf(model, folder, kind)
            files[kind] = folder / f"model-{kind}.gguf"
        column_major(model.module)  # as `chiasm.load` does
        half, eight = copy.deepcopy(model.module).bfloat16(), copy.deepcopy(model.module)
        pack(half)
        quantize(eight, "int8")
        for name, module, kind in (
            ("float32", model.module, "f32"), ("bfloat16", half, "f16"), ("int8", eight, "q8_0"),
        ):  # fmt: skip
            mine, theirs = our_side(module, ids), llama_side(files[kind], ids, own_order)
            found = inference.two_rows(f"{name} by {kind}", mine, theirs, runs, same=name == "float32")
            rows |= {title: {**row, "llama.cpp": row.pop("transformers")} for title, row in found.items()}
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs of each figure")
    parser.add_argument("--plain-order", action="store_true", help="llama.cpp without matrices in AMX's order")
    options = parser.parse_args()
    if importlib.util.find_spec("llama_cpp") is None:
        print("llama_cpp isn't installed: nothing measured (pip install llama-cpp-python builds it)", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    rows = measure(options.runs, not options.plain_order)
    if options.json:
        print(json.dumps(rows))
        return 0
    for title, row in rows.items():
        print(
            f"{title:28}{row['chiasm']:>10}{row['llama.cpp']:>10} {row['unit']:11}{row['ratio']:>7}×"
            f"{row['processor_time_ratio']:>8}× CPU"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
