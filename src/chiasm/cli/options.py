"""Options that many verbs share, as data classes that cyclopts flattens into flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from chiasm.cli.output import UsageError

if TYPE_CHECKING:
    from chiasm.models.model import Model


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """How to print.

    Attributes:
        json: One JSON document on standard output, everything for people on standard error.
        debug: Show the traceback of a failure.
    """

    json: bool = False
    debug: bool = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Loading(Output):
    """How to print, and where to run a model.

    Attributes:
        device: Where to run: auto, cpu, cuda, cuda:1, mps.
        dtype: Numbers to compute in: auto, float32, bfloat16, float16.
        quantize: Weights of the language model in fewer bits: int8 or int4; int8:all and int4:all for every layer.
        offline: Never touch the network.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    offline: bool = False

    def load(self, source: str) -> Model:
        """Load the model called `source` with these options.

        Args:
            source: a bundled name, a folder, or a hub id.

        Returns:
            The model, ready to run.
        """
        import chiasm
        from chiasm.core.devices import keep_memory

        keep_memory()
        return chiasm.load(**self.arguments(source))

    def arguments(self, source: str) -> dict[str, Any]:
        """The arguments of `chiasm.load`, as plain values."""
        return {
            "source": source, "device": self.device, "dtype": self.dtype, "quantize": self.quantize,
            "offline": True if self.offline else None,
        }  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to write a reply.

    Attributes:
        max_new_tokens: Longest reply, in tokens.
        temperature: 0 takes the likeliest token each time.
        top_p: Sample among the likeliest tokens that together hold this probability.
        num_beams: Width of the beam search; 1 is none.
        seed: Seed of the sampling.
        stop: Text that ends the reply; may be repeated.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def checked(self) -> dict[str, Any]:
        """The keyword arguments of `Model.generate`.

        Raises:
            UsageError: a number outside its range.
        """
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens is {self.max_new_tokens}, the least is 1")
        if self.temperature < 0:
            raise UsageError(f"--temperature is {self.temperature}, the least is 0")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p is {self.top_p}, outside (0, 1]")
        if self.num_beams < 1:
            raise UsageError(f"--num-beams is {self.num_beams}, the least is 1")
        if self.num_beams > 1 and self.temperature > 0:
            raise UsageError(f"--num-beams {self.num_beams} and --temperature {self.temperature} exclude each other")
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "num_beams": self.num_beams,
            "seed": self.seed,
            "stop": list(self.stop) or None,
        }


OUTPUT, LOADING, SAMPLING = Output(), Loading(), Sampling()
