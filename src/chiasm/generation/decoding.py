"""Greedy and sampled decoding of left-padded batches, whole or as a stream.

A finished sequence leaves the batch at once, so its neighbours stop paying for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, PromptError
from chiasm.core.protocols import Generative
from chiasm.core.replies import Reply, Usage
from chiasm.generation.beam import beam_search
from chiasm.generation.sampling import Sampling, choose, log_probability
from chiasm.processing.tokenizer import StreamDecoder, Tokenizer


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
    token_ids: list[int]
    logprobs: list[float]
    text: str = ""
    finish_reason: str | None = None
    emitted: int = 0

    def take(self, token_id: int, logprob: float, limits: Limits, last: bool) -> None:
        """Add one token and decide whether the reply ends with it."""
        if token_id in limits.eos_ids:
            self._finish("stop", limits)
            return
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.text += self.decoder.push(token_id)
        if self._cut_at_stop(limits):
            self.finish_reason = "stop"
        elif last:
            self._finish("length", limits)

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


def generate(
    module: Generative, batch: Batch, tokenizer: Tokenizer, limits: Limits, sampling: Sampling, num_beams: int = 1
) -> list[Reply]:
    """Answer every conversation of a batch.

    Args:
        module: what reads prompts and writes tokens.
        batch: left-padded prompts.
        tokenizer: for text and stop strings.
        limits: when replies end.
        sampling: how tokens are chosen; beams are greedy.
        num_beams: 1 = no beam search.

    Returns:
        One reply a row.

    Raises:
        ConfigError: beams asked for together with sampling or fewer than one.
    """
    if num_beams < 1:
        raise ConfigError("num_beams_invalid", f"num_beams is {num_beams}, must be at least 1")
    if num_beams > 1:
        if sampling.temperature > 0:
            raise ConfigError(
                "beams_sampled", f"num_beams is {num_beams} and temperature {sampling.temperature}; beams need 0"
            )
        hypotheses = _beams(module, batch, limits, num_beams)
        sequences = [_replay(ids, scores, tokenizer, limits, ended) for ids, scores, ended in hypotheses]
    else:
        *_, sequences = decode_steps(module, batch, tokenizer, limits, sampling)  # the last state holds every reply
    return [finished_reply(batch, row, sequence) for row, sequence in enumerate(sequences)]


def stream(module: Generative, batch: Batch, tokenizer: Tokenizer, limits: Limits, sampling: Sampling) -> Iterator[str]:
    """Answer one conversation piece by piece.

    Args:
        module, batch, tokenizer, limits, sampling: as in `generate`; the batch has one row.

    Yields:
        Pieces of text; together they are the reply's text.
    """
    for sequences in decode_steps(module, batch, tokenizer, limits, sampling):
        piece = sequences[0].fresh(limits)
        if piece:
            yield piece


@torch.inference_mode()
def decode_steps(
    module: Generative, batch: Batch, tokenizer: Tokenizer, limits: Limits, sampling: Sampling
) -> Iterator[list[RunningReply]]:
    """Write the replies of a batch token by token.

    Args:
        module, batch, tokenizer, limits, sampling: as in `generate`.

    Yields:
        After every step, the replies so far, one a row; the same objects each time.
    """
    assert batch.input_ids is not None
    rows, prompt = batch.input_ids.shape
    capacity = limits.capacity(prompt)
    sequences = [RunningReply(tokenizer.stream(), [], []) for _ in range(rows)]
    running, generators = list(range(rows)), sampling.generators(rows)
    logits, state = module.prefill(batch, capacity)
    for step in range(1, capacity - prompt + 1):
        chosen = choose(logits, sampling, generators)
        scores = log_probability(logits, chosen).tolist()
        for row, token_id, score in zip(running, chosen.tolist(), scores, strict=True):
            sequences[row].take(token_id, score, limits, last=step == capacity - prompt)
        yield sequences
        going = [at for at, row in enumerate(running) if sequences[row].finish_reason is None]
        if not going:
            return
        if len(going) < len(running):
            keep = torch.tensor(going, device=chosen.device)
            state.select(keep)
            chosen = chosen[keep]
            running, generators = [running[at] for at in going], [generators[at] for at in going]
        logits = module.decode(chosen, state)


@torch.inference_mode()
def _beams(
    module: Generative, batch: Batch, limits: Limits, num_beams: int
) -> list[tuple[list[int], list[float], bool]]:
    assert batch.input_ids is not None
    prompt = batch.input_ids.shape[1]
    capacity = limits.capacity(prompt)
    logits, state = module.prefill(batch, capacity)
    return beam_search(module, logits, state, steps=capacity - prompt, num_beams=num_beams, eos_ids=limits.eos_ids)


def _replay(
    ids: Sequence[int], scores: Sequence[float], tokenizer: Tokenizer, limits: Limits, ended: bool
) -> RunningReply:
    sequence = RunningReply(tokenizer.stream(), [], [])
    for at, (token_id, score) in enumerate(zip(ids, scores, strict=True)):
        sequence.take(token_id, score, limits, last=at == len(ids) - 1)
        if sequence.finish_reason == "stop":
            break
    if ended:
        sequence.finish_reason = "stop"
    return sequence


def finished_reply(batch: Batch, row: int, sequence: RunningReply) -> Reply:
    """The reply that row `row` of a batch has come to."""
    ids, logprobs = tuple(sequence.token_ids), tuple(sequence.logprobs)
    return Reply(sequence.text, ids, logprobs, sequence.finish_reason or "length", _usage(batch, row, sequence))


def _usage(batch: Batch, row: int, sequence: RunningReply) -> Usage:
    assert batch.input_ids is not None
    prompt = batch.input_ids.shape[1] if batch.attention_mask is None else int(batch.attention_mask[row].sum())
    images = sum(span.stop - span.start for span in batch.spans if span.row == row)
    return Usage(prompt, len(sequence.token_ids), images)
