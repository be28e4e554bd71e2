"""Splice fusion: visual tokens take the place of picture slots in a causal language model's input.

The fusion of LLaVA (Liu et al. 2023, §4.1), BLIP-2's second stage, PaLM-E and most later systems. A family says
how features are read off its tower (`visual_features`) and how one picture's crops become a sequence (`arrange`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from chiasm.core.batch import Batch, ImageSpan
from chiasm.core.errors import PromptError
from chiasm.core.plan import ImagePlan
from chiasm.fusion.slots import Part, SplicedPrompt, SplicedSlots, next_tokens
from chiasm.language.decoder import Decoder
from chiasm.nn.cache import Cache, JointStep
from chiasm.nn.masks import EVERYTHING, attention_mask, packed_mask, real_tokens, slot_mask


@dataclass(slots=True)
class SplicedState:
    """A running decode.

    Attributes:
        cache: keys and values.
        attend: (B, capacity) bool, True = a real token or a position still to come; None = no padding.
        positions: (B, 1) the next token's position.
    """

    cache: Cache
    attend: torch.Tensor | None
    positions: torch.Tensor

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (B′,), in that order."""
        self.cache.select(rows)
        self.positions = self.positions[rows]
        if self.attend is not None:
            self.attend = real_tokens(self.attend[rows])


class SplicedLM(nn.Module, ABC):
    """vision → connector → language, the visual tokens spliced into the text's embeddings."""

    def __init__(self, vision: nn.Module, connector: nn.Module, language: Decoder) -> None:
        super().__init__()
        self.vision, self.connector, self.language = vision, connector, language

    @abstractmethod
    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(crops, 3, h, w) pixels → (crops, P, D) features of the vision tower, before the connector."""

    def arrange(self, tokens: torch.Tensor, plan: ImagePlan) -> torch.Tensor:
        """One picture's (crops, P, D) connected tokens → its (N, D) sequence."""
        return tokens.flatten(0, 1)

    def encode_images(self, pixels: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """Encode pictures.

        Args:
            pixels: (crops, 3, h, w), every crop of every picture in reading order.
            plans: one a picture.

        Returns:
            One (N, D) tensor a picture.
        """
        return self.connect(self.visual_features(pixels.to(self.language.embed_tokens.weight.dtype)), plans)

    def connect(self, features: torch.Tensor, plans: list[ImagePlan] | tuple[ImagePlan, ...]) -> list[torch.Tensor]:
        """(crops, P, D) features of the tower → one (N, D) tensor a picture; arguments as for `encode_images`."""
        pieces = self.connector(features).split([len(plan.crops) for plan in plans])
        return [self.arrange(piece, plan) for piece, plan in zip(pieces, plans, strict=True)]

    def embed(self, batch: Batch) -> torch.Tensor:
        """Input embeddings with every picture in its place.

        Args:
            batch: `input_ids` (B, T), and `pixel_values` or `features`, `plans`, `spans` where there are pictures.

        Returns:
            (B, T, D).

        Raises:
            PromptError: a picture's tokens don't fill its slot exactly.
        """
        assert batch.input_ids is not None
        embeds, pictures = self.embed_text(batch), self.pictures(batch)
        return embeds if pictures is None else splice(embeds, pictures, list(batch.spans))

    def embed_text(self, batch: Batch) -> torch.Tensor:
        """(B, T, D) embeddings of a batch's text; what stands in pictures' slots means nothing."""
        assert batch.input_ids is not None
        slots = torch.zeros_like(batch.input_ids, dtype=torch.bool)
        for span in batch.spans:
            slots[span.row, span.start : span.stop] = True
        # a slot's own id may lie outside the vocabulary, and its embedding is replaced anyway
        return self.language.embed_tokens(batch.input_ids.masked_fill(slots, 0))

    def pictures(self, batch: Batch) -> list[torch.Tensor] | None:
        """One (N, D) tensor a picture of a batch; None where it has none."""
        dtype = self.language.embed_tokens.weight.dtype
        if batch.features is not None:
            return self.connect(batch.features.to(dtype), list(batch.plans))
        if batch.pixel_values is not None:
            return self.encode_images(batch.pixel_values, list(batch.plans))
        return None

    def pieces(self, batch: Batch) -> list[torch.Tensor]:
        """`pixel_values` cut into one tensor a picture."""
        assert batch.pixel_values is not None
        return list(batch.pixel_values.split([len(plan.crops) for plan in batch.plans]))

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Final hidden states; `logits` turns those that are needed into scores.

        Args:
            batch: see `embed`; `attention_mask` (B, T) where there is padding, `segments`, `trunks` and `positions`
                where rows hold several texts.

        Returns:
            (B, T, D), normalised.
        """
        attend = real_tokens(batch.attention_mask)
        mask = attend if batch.segments is None else packed_mask(batch.segments, batch.trunks)
        return self.language(
            self.embed(batch), attend=mask, positions=self.positions(batch, attend), route=self.route(batch)
        )

    def positions(self, batch: Batch, attend: torch.Tensor | None) -> torch.Tensor | None:
        """Where every token stands.

        Args:
            batch: see `hidden`.
            attend: (B, T) bool, None = no padding.

        Returns:
            (B, T), or (3, B, T) in a family with M-RoPE; None = counted from 0.
        """
        if batch.segments is not None:
            return batch.positions
        return None if attend is None else (attend.cumsum(1) - 1).clamp(min=0)

    def route(self, batch: Batch) -> torch.Tensor | None:
        """(B, T) bool, tokens that take the visual weights of routed layers; None in a family without them."""
        return None

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, T, V) logits of every position; argument as for `hidden`."""
        return self.logits(self.hidden(batch))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, D) hidden states → (…, V) logits."""
        return self.language.logits(hidden)

    def prefill(self, batch: Batch, capacity: int) -> tuple[torch.Tensor, SplicedState]:
        """Read left-padded prompts.

        Args:
            batch: see `forward`.
            capacity: most positions a sequence will take, the prompt's counted.

        Returns:
            (B, V) logits of the next token, and the state to go on from.
        """
        embeds = self.embed(batch)
        rows, length = embeds.shape[:2]
        cache = self.language.new_cache(rows, capacity)
        attend = real_tokens(batch.attention_mask)
        positions = self.positions(batch, attend)
        if positions is None:
            positions = torch.arange(length, device=embeds.device).expand(rows, -1)
        how = {"route": self.route(batch), "keep": slice(length - 1, length)}
        hidden = self.language(embeds, attend=attend, positions=positions, cache=cache, **how)
        if attend is not None:
            attend = nn.functional.pad(attend, (0, capacity - length), value=True)
        last = positions.amax(0) if positions.dim() == 3 else positions
        state = SplicedState(cache, attend, last.amax(1, keepdim=True) + 1)
        return self.language.logits(hidden[:, -1]), state

    def decode(self, token_ids: torch.Tensor, state: SplicedState) -> torch.Tensor:
        """One more token.

        Args:
            token_ids: (B,).
            state: moved on in place.

        Returns:
            (B, V) logits of the token after it.
        """
        attend = None if state.attend is None else state.attend[:, : state.cache.length + 1]
        embeds = self.language.embed_tokens(token_ids[:, None])
        hidden = self.language(embeds, attend=attend, positions=state.positions, cache=state.cache)
        state.positions = state.positions + 1
        return self.language.logits(hidden[:, -1])

    def new_slots(self) -> SplicedSlots | None:
        """An empty cache that running replies join and leave at any step; None = replies of this module can't."""
        return SplicedSlots(self.language.new_slots())

    def memory_key(self, batch: Batch) -> int:
        """What the memory of a beginning depends on besides itself: how the whole prompt's positions turn."""
        rotary, positions = self.language.config.rotary, self.positions(batch, None)
        assert batch.input_ids is not None
        length = batch.input_ids.shape[1] if positions is None else int(positions.max()) + 1
        return 0 if rotary is None else rotary.key(length)

    def open_prompt(
        self, batch: Batch, pictures: Sequence[torch.Tensor | None], kept: Sequence[Part] = ()
    ) -> SplicedPrompt:
        """Lay a prompt out, to be read in parts.

        Args:
            batch: one conversation, without padding.
            pictures: one (N, D) tensor a picture; None for those within the beginning that is kept.
            kept: the parts of an equal beginning, in order.

        Returns:
            The prompt; `read_prompts` goes on with it.
        """
        assert batch.input_ids is not None
        embeds = self.embed_text(batch)
        known = [(tokens, span) for tokens, span in zip(pictures, batch.spans, strict=True) if tokens is not None]
        if known:
            embeds = splice(embeds, [tokens for tokens, _ in known], [span for _, span in known])
        length = embeds.shape[1]
        positions = self.positions(batch, None)
        if positions is None:
            positions = torch.arange(length, device=embeds.device)[None]
        cache = self.language.new_cache(1, length)
        cache.prompts = positions.amax((0, -1) if positions.dim() == 3 else -1) + 1  # of the whole, not of a part
        for part in kept:
            cache.resume(part.keys, part.values)
        return SplicedPrompt(embeds, positions, self.route(batch), cache)

    def read_prompts(self, prompts: Sequence[SplicedPrompt], counts: Sequence[int]) -> list[torch.Tensor | None]:
        """Read the next tokens of some prompts side by side.

        Args:
            prompts: read equally far.
            counts: tokens of each.

        Returns:
            (1, V) logits of the token after each prompt that is now read whole, else None.
        """
        start, alone = prompts[0].read, len(prompts) == 1
        cache = prompts[0].cache if alone else self.language.new_cache(len(prompts), start + max(counts))
        if not alone:
            cache.join([prompt.cache for prompt in prompts])
        embeds, positions, route = next_tokens(prompts, counts)
        even = min(counts) == max(counts)
        last = slice(counts[0] - 1, counts[0]) if even else torch.tensor(counts, device=embeds.device) - 1
        hidden = self.language(embeds, positions=positions, cache=cache, route=route, keep=last)
        whole: list[int] = []
        for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            if not alone:
                prompt.cache.resume(*cache.part(row, start, start + count))
            if prompt.read == prompt.length:
                whole.append(row)
        found: list[torch.Tensor | None] = [None] * len(prompts)
        if whole:  # one product: the output layer is the largest matrix
            read = hidden[:, -1] if len(whole) == len(prompts) else hidden[whole, -1]
            for row, logits in zip(whole, self.language.logits(read).split(1), strict=True):
                found[row] = logits
        return found

    def write(self, token_ids: torch.Tensor, slots: SplicedSlots, start: int, *, apart: bool = False) -> torch.Tensor:
        """One more token for some of the running replies.

        Args:
            token_ids: (B,), of the rows from `start` on; more than there are rows are company.
            slots: moved on in place.
            start: the first row.
            apart: whether attention computes each row by itself, see `AttentionMask.lengths`.

        Returns:
            (B, V) logits of the token after it.
        """
        step = slots.step(start, start + len(token_ids))
        hidden = self.language(
            self.language.embed_tokens(token_ids[:, None]),
            attend=slot_mask(step.cache, apart=apart),
            positions=step.positions,
            cache=step.cache,
        )
        slots.advance(start, len(token_ids))
        return self.language.logits(hidden[:, -1])

    def joins(self, prompt: SplicedPrompt) -> bool:
        """Whether `write_and_read` can take this prompt."""
        return prompt.route is None and self.language.joins

    def write_and_read(
        self, token_ids: torch.Tensor, slots: SplicedSlots, prompt: SplicedPrompt, count: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`write` for all running replies and `read_prompts` for one prompt, in one pass over the weights.

        Args:
            token_ids: (R,), one a running reply.
            slots, prompt: moved on in place, not before everything else is done.
            count: tokens of the prompt.

        Returns:
            (R, V) logits of the replies' next tokens, and (1, V) of the prompt's where it is now read whole, else None.
        """
        rows, device = len(token_ids), token_ids.device
        step = slots.step(0, rows)
        embeds, positions, _ = next_tokens([prompt], [count])
        reading = attention_mask(None, causal=True, queries=count, keys=prompt.read + count, device=device)
        joint = JointStep(step.cache, prompt.cache, (slot_mask(step.cache, apart=False), reading))
        hidden = self.language(
            torch.cat((self.language.embed_tokens(token_ids)[None], embeds), 1),
            attend=EVERYTHING,
            positions=torch.cat((step.positions.T.expand(*positions.shape[:-1], rows), positions), -1),
            cache=joint,
        )[0]
        whole = prompt.read + count == prompt.length
        logits = self.language.logits(torch.cat((hidden[:rows], hidden[-1:])) if whole else hidden[:rows])
        joint.settle(count)
        slots.advance(0, rows)
        return logits[:rows], logits[rows:] if whole else None


def splice(embeds: torch.Tensor, pictures: list[torch.Tensor], spans: list[ImageSpan]) -> torch.Tensor:
    """Put visual tokens into their slots.

    Args:
        embeds: (B, T, D) text embeddings.
        pictures: one (N, D) tensor a picture.
        spans: where each picture goes.

    Returns:
        (B, T, D), a new tensor; gradients reach both inputs.

    Raises:
        PromptError: counts disagree; both numbers and the picture are named.
    """
    check_slots([len(tokens) for tokens in pictures], spans)
    rows = [span.row for span in spans for _ in range(span.start, span.stop)]
    columns = [column for span in spans for column in range(span.start, span.stop)]
    where = (torch.tensor(rows, device=embeds.device), torch.tensor(columns, device=embeds.device))
    return embeds.index_put(where, torch.cat(pictures).to(embeds.dtype))


def check_slots(counts: Sequence[int], spans: Sequence[ImageSpan]) -> None:
    """Refuse pictures that don't fill their slots.

    Args:
        counts: tokens of each picture in the text's stream.
        spans: the slots.

    Raises:
        PromptError: counts disagree; both numbers and the picture are named.
    """
    if len(counts) != len(spans):
        raise PromptError("image_count", f"{len(counts)} pictures encoded, {len(spans)} picture slots in the prompts")
    for index, (count, span) in enumerate(zip(counts, spans, strict=True)):
        slot = span.stop - span.start
        if count != slot:
            raise PromptError("image_tokens", f"picture {index} has {count} visual tokens, its slot {slot} positions")
