"""When a reply ends, and what of its text is certain."""

from __future__ import annotations

from dataclasses import dataclass, field

from chiasm.core.errors import ConfigError, PromptError
from chiasm.generation.sampling import Drawn
from chiasm.processing.tokenizer import StreamDecoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When a reply ends.

    Attributes:
        max_new_tokens: most tokens generated.
        eos_ids: ids that end a reply.
        stop: strings that end a reply; they are not part of it.
        context_length: most positions of prompt and reply together; None = unlimited.
    """

    max_new_tokens: int
    eos_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    context_length: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError("max_new_tokens_invalid", f"max_new_tokens is {self.max_new_tokens}, must be at least 1")
        if any(not stop for stop in self.stop):
            raise ConfigError("stop_empty", "a stop string is empty; every reply would end before it began")

    def capacity(self, prompt: int) -> int:
        """Positions that prompts of `prompt` tokens and their replies may take.

        Raises:
            PromptError: the prompt alone fills the context.
        """
        if self.context_length is None:
            return prompt + self.max_new_tokens
        if prompt >= self.context_length:
            raise PromptError(
                "context_exceeded",
                f"the prompt has {prompt} tokens, the context {self.context_length}",
                hint="fewer or smaller pictures",
            )
        return min(prompt + self.max_new_tokens, self.context_length)


@dataclass(slots=True)
class RunningReply:
    """One reply in the making; setting `finish_reason` between two steps takes it out of its batch."""

    decoder: StreamDecoder
    drawn: list[Drawn] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    emitted: int = 0

    def take(self, drawn: Drawn, limits: Limits, last: bool, whole: bool = False) -> None:
        """Add one token and decide whether the reply ends with it: the last that is allowed, or the whole answer."""
        if drawn.token_id in limits.eos_ids:
            self._finish("stop", limits)
            return
        self.drawn.append(drawn)
        self.text += self.decoder.push(drawn.token_id)
        if self._cut_at_stop(limits):
            self.finish_reason = "stop"
        elif last or whole:
            self._finish("stop" if whole else "length", limits)

    def _finish(self, reason: str, limits: Limits) -> None:
        self.text += self.decoder.finish()
        self.finish_reason = "stop" if self._cut_at_stop(limits) else reason

    def _cut_at_stop(self, limits: Limits) -> bool:
        found = [at for at in (self.text.find(stop) for stop in limits.stop) if at >= 0]
        if found:
            self.text = self.text[: min(found)]
        return bool(found)

    def fresh(self, limits: Limits) -> str:
        """Text not yet given out; what could still become a stop string is held back."""
        held = 0 if self.finish_reason else max((_overlap(self.text, stop) for stop in limits.stop), default=0)
        stop = max(self.emitted, len(self.text) - held)
        piece, self.emitted = self.text[self.emitted : stop], stop
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
