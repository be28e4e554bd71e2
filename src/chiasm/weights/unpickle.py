"""Reads one pickled checkpoint and writes safetensors; run as a process of its own by `weights.convert`.

It imports nothing of this library, so that the process is small and isolated (``python -I``). The pickle is
read by ``torch.load(weights_only=True)``, which runs no code of the file's, under limits on memory, time and
output; the last line printed is a JSON report.

Usage: ``unpickle.py SOURCE TARGET MEMORY_BYTES SECONDS OUTPUT_BYTES``
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Mapping
from typing import Any

WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "params", "net")


def unwrap(value: Any, skipped: dict[str, str]) -> Any:
    """The mapping of names to tensors inside the usual wrappings; what lies beside it is noted in `skipped`."""
    import torch

    for _ in range(3):
        if not isinstance(value, Mapping) or any(isinstance(item, torch.Tensor) for item in value.values()):
            break
        inner = next((key for key in WRAPPERS if isinstance(value.get(key), (Mapping, list, tuple))), None)
        if inner is None:
            break
        skipped.update({str(key): type(item).__name__ for key, item in value.items() if key != inner})
        value = value[inner]
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, Mapping) for part in value):
        # several modules' states side by side, such as VSE++'s picture and text encoders
        value = {f"{number}.{name}": item for number, part in enumerate(value) for name, item in part.items()}
    return value


def main(source: str, target: str, memory: int, seconds: int, output: int) -> dict[str, Any]:
    """Convert; returns the report."""
    import torch
    from safetensors.torch import save_file

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
    try:
        # training options, a plain holder of values, lie beside the weights of many older checkpoints
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        what = "unsafe" if "weights only" in str(error).lower() or "weights_only" in str(error) else "unreadable"
        return {"error": what, "reason": f"{type(error).__name__}: {first}"[:300]}
    skipped: dict[str, str] = {}
    state = unwrap(loaded, skipped)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized:
            # a copy of its own: the format holds no two views of one storage
            tensors[str(key)] = value.detach().clone(memory_format=torch.contiguous_format)
        else:
            skipped[str(key)] = type(value).__name__
    if not tensors:
        return {"error": "empty", "reason": f"a {type(loaded).__name__} without tensors"}
    save_file(tensors, target, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    return {"tensors": len(tensors), "bytes": size, "skipped": skipped}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:6]))))
