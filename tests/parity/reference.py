"""Runs reference packages in a process of their own, where their torchvision can't be seen by anything else.

`.reference/` (see `requirements-reference.txt` and the Makefile) stands on that process's path only. The torchvision
there has no compiled operators for this torch: they are declared, never called, before its first import. Tensors go
in and out as safetensors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".reference"

_PRELUDE = """
import sys, torch
from safetensors.torch import load_file, save_file
declared = torch.library.Library("torchvision", "DEF")
for name in (
    "nms", "qnms", "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool",
    "_ps_roi_pool_backward", "roi_pool", "_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward",
):
    declared.define(name + "(Tensor a) -> Tensor")
inputs = load_file(sys.argv[1])
outputs = {}
"""
_CODA = """
save_file({name: value.detach().contiguous().clone() for name, value in outputs.items()}, sys.argv[2])
"""


def run_reference(script: str, inputs: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """Run a script against the reference packages.

    Args:
        script: Python that reads the mapping `inputs` and fills the mapping `outputs` with tensors.
        inputs: tensors by name.
        folder: scratch space for the exchange.

    Returns:
        What the script put into `outputs`.
    """
    assert PACKAGES.is_dir(), f"{PACKAGES} is missing: run `make environment`"
    given, taken = folder / "inputs.safetensors", folder / "outputs.safetensors"
    save_file({name: value.contiguous() for name, value in inputs.items()}, given)
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _PRELUDE + script + _CODA, str(given), str(taken)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"the reference failed:\n{done.stderr[-3000:]}"
    return load_file(taken)
