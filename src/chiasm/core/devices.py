"""Where a model computes: a device by name, tried before anything is loaded onto it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


def device_called(name: str) -> torch.device:
    """A device that is there.

    Args:
        name: ``auto`` (a GPU where there is one) or a name that torch knows, such as ``cuda:1``.

    Raises:
        ConfigError: torch knows no such device, or it isn't there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        what = f"device {name!r} can't be used: {reason}"
        raise ConfigError("device_unavailable", what, hint="--device cpu") from None
    return device


def keep_memory() -> None:
    """Let this process keep the memory that it has used: for programs that run a model again and again.

    The GNU C library gives blocks of over 32 MB back at once and asks for them anew, and the kernel clears each page
    again; activations of a batch are such blocks. Other C libraries are left as they are.
    """
    import ctypes
    import sys

    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)
