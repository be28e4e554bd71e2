"""Cross-attention fusion: a language tower that reads a second stream in its layers (ALBEF §3.1, BLIP §3.1, CoCa §3.2).

No visual token stands among the text's; a picture's span in a batch is therefore empty. A family says what its writer
attends to (`read`); decoding with a cache is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import PromptError
from chiasm.language.bert import Bert, BertHead
from chiasm.nn.cache import Cache
from chiasm.nn.fusion_blocks import Context, context_mask
from chiasm.nn.masks import real_tokens
from chiasm.vision.conv_grid import ConvGrid
from chiasm.vision.hybrid import Hybrid
from chiasm.vision.vit import ViT


class Seeing(nn.Module):
    """A picture tower in two steps, what may be frozen and stored, and what learns on it."""

    vision: ViT | ConvGrid | Hybrid

    def visual_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, P, trunk's D) cells of a hybrid tower, or (I, 1 + P, D) states of another."""
        return self.vision.trunk.features(pixels) if isinstance(self.vision, Hybrid) else self.vision.states(pixels)

    def encode_features(self, features: torch.Tensor) -> torch.Tensor:
        """Of `visual_features` → (I, 1 + P, D) states, the class token first."""
        return self.vision.refine(features) if isinstance(self.vision, Hybrid) else features

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, h, w) pixels → (I, 1 + P, D) states, the class token first."""
        return self.encode_features(self.visual_features(pixels))

    def picture_states(self, batch: Batch, each: int = 1) -> torch.Tensor:
        """(B · each, 1 + P, D) states of a batch's pictures, from pixels or stored features.

        Raises:
            PromptError: another number of pictures; both numbers are named.
        """
        given = pictures_of(batch, each)
        return self.encode_images(given) if batch.features is None else self.encode_features(given)


@dataclass(slots=True)
class CrossState:
    """A running decode.

    Attributes:
        cache: keys and values of self-attention.
        context: keys and values of cross-attention, computed once.
        attend: (B, capacity) bool, True = a real token or a position still to come; None = no padding.
        positions: (B, 1) the next token's position.
    """

    cache: Cache
    context: Context
    attend: torch.Tensor | None
    positions: torch.Tensor

    def select(self, rows: torch.Tensor) -> None:
        """Keep the sequences `rows` (B′,), in that order."""
        self.cache.select(rows)
        self.context.select(rows)
        self.positions = self.positions[rows]
        if self.attend is not None:
            self.attend = real_tokens(self.attend[rows])


@dataclass(slots=True)
class Reading:
    """What a writer is given.

    Attributes:
        states: (B, S, context_dim), what it attends to.
        states_attend: (B, S) bool; None = all of it.
        ids: (B, T) its own text so far.
        attend: (B, T) bool; None = no padding.
    """

    states: torch.Tensor
    states_attend: torch.Tensor | None
    ids: torch.Tensor
    attend: torch.Tensor | None


class CrossAttentionLM(nn.Module, ABC):
    """Writes text with a causal BERT whose layers attend to another stream."""

    @property
    @abstractmethod
    def writer(self) -> tuple[Bert, BertHead]:
        """The decoder and its output layer."""

    @abstractmethod
    def read(self, batch: Batch) -> Reading:
        """What the writer attends to, and its own text."""

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Final states of the writer's text; `scores` turns those that are needed into logits.

        Args:
            batch: `pixel_values` (B, 3, h, w), one picture a row, and `input_ids` (B, T); `attention_mask` (B, T).

        Returns:
            (B, T, D); zeros where a question stands that the writer doesn't read itself.
        """
        reading, (bert, _) = self.read(batch), self.writer
        x = bert.embed(reading.ids, places(reading.attend))
        context = Context(reading.states, context_mask(reading.states_attend))
        x = bert.encode(x, reading.attend, context=context, causal=True)
        assert batch.input_ids is not None
        return nn.functional.pad(x, (0, 0, batch.input_ids.shape[1] - x.shape[1], 0))

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, D) states of `hidden` → (…, V) logits."""
        bert, head = self.writer
        return head(hidden, bert.token_embed.weight)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, T, V) logits of the writer's text; argument as for `hidden`."""
        return self.scores(self.hidden(batch))

    def prefill(self, batch: Batch, capacity: int) -> tuple[torch.Tensor, CrossState]:
        """Read left-padded prompts.

        Args:
            batch: see `forward`.
            capacity: most positions a sequence will take, the prompt's counted.

        Returns:
            (B, V) logits of the next token, and the state to go on from.
        """
        reading, (bert, _) = self.read(batch), self.writer
        rows, length = reading.ids.shape
        cache, context = bert.new_cache(rows, capacity), bert.project(reading.states, reading.states_attend)
        attend = real_tokens(reading.attend)
        x = bert.embed(reading.ids, places(attend))
        x = bert.encode(x, attend, context=context, causal=True, cache=cache)
        if attend is None:
            following = torch.full((rows, 1), length, device=x.device)
        else:
            following = attend.sum(1, keepdim=True)
            attend = nn.functional.pad(attend, (0, capacity - length), value=True)
        return self.scores(x[:, -1]), CrossState(cache, context, attend, following)

    def decode(self, token_ids: torch.Tensor, state: CrossState) -> torch.Tensor:
        """One more token.

        Args:
            token_ids: (B,).
            state: moved on in place.

        Returns:
            (B, V) logits of the token after it.
        """
        bert, _ = self.writer
        attend = None if state.attend is None else state.attend[:, : state.cache.length + 1]
        x = bert.embed(token_ids[:, None], state.positions)
        x = bert.encode(x, attend, context=state.context, causal=True, cache=state.cache)
        state.positions = state.positions + 1
        return self.scores(x[:, -1])


def places(attend: torch.Tensor | None) -> torch.Tensor | None:
    """Positions of left-padded text: (B, T) bool → (B, T) counted from the first real token; None = from 0."""
    attend = real_tokens(attend)
    return None if attend is None else (attend.cumsum(1) - 1).clamp(min=0)


def pictures_of(batch: Batch, each: int = 1) -> torch.Tensor:
    """The pixels, or the stored features, of a batch in which every text has as many pictures.

    Args:
        batch: of texts.
        each: pictures a text.

    Returns:
        (B · each, …), a row's pictures together.

    Raises:
        PromptError: another number of pictures; both numbers are named.
    """
    assert batch.input_ids is not None
    pictures = batch.pixel_values if batch.features is None else batch.features
    given, rows = 0 if pictures is None else len(pictures), len(batch.input_ids)
    if pictures is None or given != rows * each:
        raise PromptError("image_count", f"{given} pictures encoded, {rows} texts need {rows * each}")
    return pictures


def grad_cam(weights: torch.Tensor, gradient: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """What a prediction owes to each patch (Selvaraju et al. 2017, eq. 1–2, on attention weights as ALBEF §6.2 does).

    Args:
        weights: (B, H, T, S) cross-attention weights; position 0 of S is the class token.
        gradient: (B, H, T, S) of the prediction.
        words: (B, T) bool, the words that count.

    Returns:
        (B, S − 1): weights times positive gradients, the mean over heads and counted words.
    """
    cam = (weights * gradient.clamp(min=0)).mean(1)[..., 1:]  # (B, T, S − 1)
    counted = words[..., None].to(cam.dtype)
    return (cam * counted).sum(1) / counted.sum(1).clamp(min=1)
